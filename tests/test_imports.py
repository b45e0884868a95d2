"""What an import loads: the core no framework, an extension only its own.

Every check runs in a fresh interpreter, because this one may have loaded anything already.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = "dr_plugins"
FRAMEWORKS = ("timm", "mmengine", "mmcv", "mmdet", "mmseg", "detectron2")
EXTENSIONS = ("timm_ext", "mmlab_ext", "d2_ext")
MODELS = "dr_models"

# Arguments: names that must not be importable at all, then names to import. The last line printed
# is JSON. With None in sys.modules an import raises ModuleNotFoundError and find_spec gives None.
IMPORTER = """
import importlib, json, sys
hidden, names = json.loads(sys.argv[1]), json.loads(sys.argv[2])
sys.modules.update(dict.fromkeys(hidden))
for name in names:
    importlib.import_module(name)
loaded = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
print()
print(json.dumps(sorted(loaded)))
"""


def loaded_by(names: Sequence[str], hidden: Sequence[str] = ()) -> set[str]:
    """Top-level packages that a fresh interpreter holds after importing `names`."""
    command = [sys.executable, "-c", IMPORTER, json.dumps(hidden), json.dumps(names)]
    # What Detectron2's sdist lacks, in the module that it asks for itself; read by nothing else.
    stand_ins = {"DETECTRON2_ENV_MODULE": str(ROOT / "tests" / "d2_ext" / "stand_ins.py")}
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **stand_ins},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def modules_of(package: str) -> list[str]:
    """The package and all its modules, found without importing any, save `__main__`."""
    folder = ROOT / package
    found, pending = [package], [(folder, package)]
    while pending:
        path, prefix = pending.pop()
        for module in pkgutil.iter_modules([str(path)], f"{prefix}."):
            if module.name.endswith(".__main__"):
                continue
            found.append(module.name)
            if module.ispkg:
                pending.append((path / module.name.rpartition(".")[2], module.name))
    return found


def test_the_probe_sees_what_an_import_loads() -> None:
    assert "colorsys" in loaded_by(["colorsys"])
    assert "colorsys" not in loaded_by(["json"])


def test_core_modules_are_all_found() -> None:
    expected = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / CORE).rglob("*.py")
        if path.name != "__main__.py"
    }
    assert set(modules_of(CORE)) == expected
    assert f"{CORE}.cli" in expected


def test_import_of_the_core_loads_no_framework() -> None:
    assert loaded_by([CORE]).isdisjoint({*FRAMEWORKS, *EXTENSIONS, MODELS})


def test_no_core_module_loads_a_framework() -> None:
    assert loaded_by(modules_of(CORE)).isdisjoint({*FRAMEWORKS, *EXTENSIONS, MODELS})


def test_every_core_module_imports_where_no_framework_is_installed() -> None:
    loaded_by(modules_of(CORE), hidden=[*FRAMEWORKS, *EXTENSIONS, MODELS])


@pytest.mark.parametrize(
    ("extension", "framework", "foreign"),
    [
        ("timm_ext", "timm", {"mmengine", "mmcv", "mmdet", "mmseg", "detectron2"}),
        ("mmlab_ext", "mmengine", {"detectron2"}),
        ("d2_ext", "detectron2", {"mmengine", "mmcv", "mmdet", "mmseg", "timm"}),
    ],
)
def test_an_extension_loads_only_its_own_framework(
    extension: str, framework: str, foreign: set[str]
) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    others = {*EXTENSIONS} - {extension}
    assert loaded_by([extension]).isdisjoint(foreign | others)
