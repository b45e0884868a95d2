"""The packages of this project, as pyproject.toml lists them, and the frameworks they need."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_CONFIG = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _listed(entry: str) -> tuple[str, ...]:
    found = re.search(rf"^{entry} = \[(.*?)\]", _CONFIG, re.M | re.S)
    assert found is not None, entry
    return tuple(re.findall(r'"([\w.]+)"', found[1]))


PACKAGES = _listed("root_packages")
FRAMEWORKS = _listed("forbidden_modules")
# What must be installed to import a package, beside the core's own dependencies.
NEEDS = {
    "dr_models": "timm",
    "timm_ext": "timm",
    "mmlab_ext": "mmengine",
    "d2_ext": "detectron2",
}
EXTENSIONS = tuple(name for name in PACKAGES if name.endswith("_ext"))


def is_installed(package: str) -> bool:
    """Whether there is what a package needs."""
    needed = NEEDS.get(package)
    return needed is None or importlib.util.find_spec(needed) is not None


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


def imported(name: str) -> Any:
    """A package or module, after the stand-ins for what its framework lacks here."""
    tests = f"tests.{name.partition('.')[0]}.stand_ins"
    if (ROOT / f"{tests.replace('.', '/')}.py").is_file():
        importlib.import_module(tests).install()
    return importlib.import_module(name)
