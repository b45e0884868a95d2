from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import timm.data
import timm.data.dataset_factory
import timm.data.loader
import timm.data.naflex_loader
import timm.loss

import timm_ext
from tests.forked import WITHOUT_TIMM, run_python
from timm_ext import datasets, loader, refusals

ROOT = Path(__file__).resolve().parents[2]


def test_timms_names_are_ours_where_they_are_defined_too() -> None:
    for module in (timm.data, timm.data.dataset_factory):
        assert module.create_dataset is datasets.create_dataset
    for module in (timm.data, timm.data.loader):
        assert module.create_loader is loader.create_loader
    for module in (timm.data, timm.data.naflex_loader):
        assert module.create_naflex_loader is refusals.create_naflex_loader


def test_only_timms_objects_are_bound_anew_under_whatever_name() -> None:
    script = types.ModuleType("script")
    script.create_dataset = datasets.timm_create_dataset
    script.make_loader = loader.timm_create_loader
    script.create_loader = own = lambda: None
    timm_ext.register(script)
    assert script.create_dataset is datasets.create_dataset
    assert script.make_loader is loader.create_loader
    assert script.create_loader is own
    assert datasets.timm_create_dataset is not datasets.create_dataset


class Odd:
    """What some packages put into `sys.modules`."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError


class Slotted:
    __slots__ = ()


def test_odd_modules_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("lazy", importlib.util.LazyLoader(Unloadable()))
    lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)
    for name, module in (("odd", Odd()), ("slotted", Slotted()), ("none", None), ("lazy", lazy)):
        monkeypatch.setitem(sys.modules, name, module)
    timm_ext.register()


class Unloadable(importlib.abc.Loader):
    def exec_module(self, module: types.ModuleType) -> None:
        raise AssertionError("was loaded")


def run(folder: Path, script: str) -> None:
    (folder / "script.py").write_text(script)
    result = run_python([folder / "script.py"], imported=WITHOUT_TIMM)
    assert result.returncode == 0, result.stderr


def test_modules_that_took_names_before_and_after(tmp_path: Path) -> None:
    """Of whatever kind they are: a module, a package that passes names on, and who takes those."""
    (tmp_path / "early.py").write_text("from timm.data import create_dataset, create_loader as x")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from package.inner import *")
    (package / "inner.py").write_text("from timm.data.dataset_factory import create_dataset")
    (tmp_path / "late.py").write_text("from timm.data.dataset_factory import create_dataset")
    (tmp_path / "later.py").write_text("from package import create_dataset")
    (tmp_path / "subclass.py").write_text(
        "from timm.loss import LabelSmoothingCrossEntropy\n"
        "class Loss(LabelSmoothingCrossEntropy): pass\n"
    )
    run(
        tmp_path,
        "import early, package, subclass, timm_ext, late, later, torch\n"
        "from dr_plugins import SparseTargets\n"
        "for module in (early, package, package.inner, late, later):\n"
        "    assert module.create_dataset is timm_ext.create_dataset, module\n"
        "assert early.x is timm_ext.create_loader\n"
        "targets = SparseTargets([[0]], [[1.0]], num_classes=2)\n"
        "assert subclass.Loss()(torch.zeros(1, 2), targets) > 0\n",
    )


@pytest.mark.parametrize(
    ("hooked", "models"), [("timm.data", ", dr_models.networks"), ("timm", "")]
)
def test_registration_from_within_the_import_of_timm(
    tmp_path: Path, hooked: str, models: str
) -> None:
    """As a hook does that runs when a module of timm is loaded, amid or after `import timm`."""
    (tmp_path / "hook.py").write_text(
        "import importlib.machinery, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name != {hooked!r}: return None\n"
        "        spec = importlib.machinery.PathFinder.find_spec(name, path)\n"
        "        load = spec.loader.exec_module\n"
        "        def exec_module(module):\n"
        "            load(module)\n"
        "            import timm_ext\n"
        "        spec.loader.exec_module = exec_module\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    run(
        tmp_path,
        "import hook\n"
        "from timm.data import create_dataset\n"
        f"import timm_ext{models}, timm\n"
        "assert create_dataset is timm_ext.create_dataset\n"
        "assert timm.is_model('cvnets_resnet50')\n",
    )


@pytest.mark.parametrize("version", ["0.9.12", "1.0.15.dev0"])
def test_old_versions_of_timm_are_told(version: str) -> None:
    script = "import sys, types; timm = sys.modules['timm'] = types.ModuleType('timm');"
    script += f"timm.__version__ = {version!r}; import timm_ext"
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"needs timm 1.0.16 or newer, but {version} is installed" in result.stderr


def test_registering_again_changes_nothing() -> None:
    before = dict(vars(timm.data)), dict(vars(timm.loss))
    timm_ext.register()
    timm_ext.register(timm.data)
    assert (dict(vars(timm.data)), dict(vars(timm.loss))) == before


@pytest.mark.parametrize(
    "name", ["imagenet-plus", "imagenet-plus?p=1", "cifar100-plus", "food-plus"]
)
def test_references_that_were_kept_elsewhere(name: str, tmp_path: Path) -> None:
    """timm's own function would take such a name for a folder, and train on labels."""
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "image.png").touch()
    kept = {"dataset": functools.partial(datasets.timm_create_dataset, root=str(tmp_path))}
    with pytest.raises(
        timm_ext.DatasetNameError, match=re.escape(repr(name.partition("?")[0])[:-1])
    ):
        kept["dataset"](name)
    assert len(kept["dataset"]("folder")) == 1
