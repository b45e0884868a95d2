"""The examples in docstrings run as written."""

from __future__ import annotations

import doctest

import pytest

from tests.packages import PACKAGES, imported, is_installed, modules_of

INSTALLED = [package for package in PACKAGES if is_installed(package)]


@pytest.mark.parametrize("name", [name for package in INSTALLED for name in modules_of(package)])
def test_examples(name: str) -> None:
    assert doctest.testmod(imported(name)).failed == 0


@pytest.mark.parametrize("package", INSTALLED)
def test_there_are_examples(package: str) -> None:
    finder, modules = doctest.DocTestFinder(), map(imported, modules_of(package))
    assert any(test.examples for module in modules for test in finder.find(module))
