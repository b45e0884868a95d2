"""The packages of this project, as pyproject.toml lists them, and the frameworks they need."""

from __future__ import annotations

import re
from pathlib import Path

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
