"""What an import loads: the core no framework, an extension only its own.

Every check runs in a separate process, because this one may have loaded anything already.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.forked import WITHOUT_TIMM, run_python
from tests.packages import EXTENSIONS, FRAMEWORKS, NEEDS, ROOT, modules_of

CORE = "dr_plugins"
MODELS = "dr_models"

# With None in sys.modules an import raises ModuleNotFoundError and find_spec gives None.
PROBE = """
import importlib, json, sys
names, hidden = map(json.loads, sys.argv[1:])
sys.modules.update(dict.fromkeys(hidden))
for name in names:
    importlib.import_module(name)
loaded = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
print("loaded:", *sorted(loaded))
"""
LoadedBy = Callable[..., set[str]]


@pytest.fixture
def loaded_by(tmp_path: Path) -> LoadedBy:
    """Top-level packages that an interpreter holds after importing some in a new process."""
    # What Detectron2's sdist lacks, in the module that Detectron2 imports; nothing else reads it.
    stand_ins = {"DETECTRON2_ENV_MODULE": str(ROOT / "tests" / "d2_ext" / "stand_ins.py")}
    (tmp_path / "probe.py").write_text(PROBE)

    def ask(names: Sequence[str], hidden: Sequence[str] = ()) -> set[str]:
        arguments = [tmp_path / "probe.py", json.dumps(names), json.dumps(hidden)]
        done = run_python(arguments, stand_ins, WITHOUT_TIMM)
        assert done.returncode == 0, done.stderr
        (loaded,) = (line for line in done.stdout.splitlines() if line.startswith("loaded:"))
        return set(loaded.split()[1:])

    return ask


def test_the_probe_sees_what_an_import_loads(loaded_by: LoadedBy) -> None:
    assert "mailbox" in loaded_by(["mailbox"])
    assert "mailbox" not in loaded_by(["json"])
    assert loaded_by([]).isdisjoint({*FRAMEWORKS, *EXTENSIONS, MODELS, CORE})


def test_core_modules_are_all_found() -> None:
    expected = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / CORE).rglob("*.py")
        if path.name != "__main__.py"
    }
    assert set(modules_of(CORE)) == expected
    assert f"{CORE}.cli" in expected


def test_no_core_module_loads_a_framework(loaded_by: LoadedBy) -> None:
    assert loaded_by(modules_of(CORE)).isdisjoint({*FRAMEWORKS, *EXTENSIONS, MODELS})


def test_every_core_module_imports_where_no_framework_is_installed(loaded_by: LoadedBy) -> None:
    loaded_by(modules_of(CORE), hidden=[*FRAMEWORKS, *EXTENSIONS, MODELS])


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_an_extension_loads_only_its_own_framework(loaded_by: LoadedBy, extension: str) -> None:
    framework = NEEDS[extension]
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    foreign = {*FRAMEWORKS, *EXTENSIONS} - {framework, extension}
    assert loaded_by([extension]).isdisjoint(foreign)
