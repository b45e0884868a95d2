"""The networks published by Apple: importing this registers them with timm, as ``cvnets_*``."""

from __future__ import annotations

from importlib import import_module

from dr_models import families
from dr_models.catalog import FAMILIES

for _family in FAMILIES:
    import_module(f"{families.__name__}.{_family}.network")
