"""The examples in docstrings run as written."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

pytest.importorskip("detectron2")
pytest.importorskip("timm")

import d2_ext

MODULES = [module.name for module in pkgutil.walk_packages(d2_ext.__path__, "d2_ext.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
