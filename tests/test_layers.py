"""The layers of CONTRIBUTING.md are checked, and the check notices a breach."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packages import PACKAGES, ROOT

pytest.importorskip("importlinter")


def check_layers(root: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as lint; lint()",
    ]
    return subprocess.run(
        [*command, "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )


UPWARD = {
    "dr_plugins/shards/reader.py": "from dr_plugins.policies.policy import Policy",
    "dr_plugins/records.py": "import dr_plugins.shards.manifest",
    "dr_plugins/tools/verify.py": "def late():\n    import dr_models",
    "timm_ext/names.py": "import d2_ext.config",
    "dr_plugins/targets.py": "def late():\n    import timm",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the check prints where five modules import upwards, and nothing else is wrong."""
    root = tmp_path_factory.mktemp("copied")
    shutil.copy(ROOT / "pyproject.toml", root)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package)
    assert check_layers(root).returncode == 0
    for module, line in UPWARD.items():
        with open(root / module, "a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    result = check_layers(root)
    assert result.returncode == 1
    return result.stdout


@pytest.mark.parametrize(("module", "line"), UPWARD.items())
def test_an_upward_import_is_noticed(found: str, module: str, line: str) -> None:
    imported = re.findall(r"(?:from|import) ([\w.]+)", line)[0]
    name = module.removesuffix(".py").replace("/", ".")
    assert re.search(rf"{name} -> {imported}\b", found)


def test_the_documented_layers_are_the_checked_ones() -> None:
    picture = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[1]
    documented = [
        re.findall(r"\b(?:\w+_ext|dr_\w+(?:\.\w+)?)\b", line) for line in picture.splitlines()
    ]
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r'name = "layers".*?layers = \[(.*?)\]', config, re.DOTALL)
    assert layers is not None
    checked = [re.findall(r"[\w.]+", line) for line in layers[1].splitlines()]
    assert [line for line in documented if line] == [line for line in checked if line]


def test_no_module_imports_a_layer_by_string() -> None:
    for package in ("dr_plugins", "dr_models"):
        for path in (ROOT / package).rglob("*.py"):
            found = re.findall(r"import_module\(\s*[\"']([\w.]+)", path.read_text(encoding="utf-8"))
            assert not found, f"{path} imports {found} by string"
