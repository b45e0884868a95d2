"""docs/api.md lists what is public, with examples, and documents use nothing else."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT, api_page, code_blocks
from tests.packages import PACKAGES as SHIPPED
from tests.packages import imported, is_installed

DOCUMENTS = ["README.md"]
DOCUMENTS += [
    str(path.relative_to(ROOT))
    for name in ("docs", "examples")
    for path in (ROOT / name).rglob("*.md")
]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


PAGE = api_page()
PACKAGES = list(PAGE)
PUBLIC = {f"{package}.{name}" for package, names in PAGE.items() for name in names}
PUBLIC |= {*PACKAGES, "dr_models.networks"}  # whose import registers networks with timm
PUBLIC |= {"dr_plugins.commands"}  # a group of entry points


def opened(package: str) -> Any:
    """A package, where what it needs is installed."""
    if not is_installed(package):
        pytest.skip(f"what {package} needs is not installed")
    return imported(package)


def test_the_page_has_all_packages() -> None:
    assert {name.partition(".")[0] for name in PAGE} == set(SHIPPED)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_lists_exactly_what_a_package_exports(package: str) -> None:
    names = opened(package).__all__
    assert sorted(PAGE[package]) == sorted(names)
    assert set(names) <= set(dir(opened(package)))


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package, names in PAGE.items() for name in names]
)
def test_every_public_name_has_an_example(package: str, name: str) -> None:
    value = getattr(opened(package), name)
    if isinstance(value, type) and issubclass(value, Exception):
        assert value.__doc__
    elif callable(value):
        assert re.search(r"^Example:\n {4}\S", inspect.getdoc(value) or "", re.M)


def used_names(code: str) -> Iterator[str]:
    """What a piece of code takes from the shipped packages, with the package in front."""
    tree, imported = ast.parse(code), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.partition(".")[0] in SHIPPED]
            imported |= {name.partition(".")[0] for name in names}
            yield from names
        elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in SHIPPED:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            package = next((p for p in reversed(PACKAGES) if name.startswith(f"{p}.")), "")
            if name.partition(".")[0] in imported:
                yield ".".join(name.split(".")[: package.count(".") + 2])


def private_names(code: str) -> list[str]:
    """The names that a piece of code uses and the page does not list."""
    return [name for name in used_names(code) if name not in PUBLIC]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_use_public_names_only(document: str) -> None:
    for code in code_blocks(document, "python"):
        assert not private_names(code)
    text = (ROOT / document).read_text(encoding="utf-8")
    for name in re.findall(rf"`((?:{'|'.join(SHIPPED)})(?:\.\w+)+)(?:\(.*?\))?`", text):
        assert name in PUBLIC


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_use_public_names_only(path: Path) -> None:
    assert not private_names(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("from dr_plugins.targets import a", "dr_plugins.targets.a"),
        ("from dr_plugins import targets", "dr_plugins.targets"),
        ("import dr_plugins.targets", "dr_plugins.targets"),
        ("import timm_ext\ntimm_ext.loader.b()", "timm_ext.loader"),
        ("import dr_models.checkpoints\ndr_models.checkpoints.c", "dr_models.checkpoints.c"),
    ],
)
def test_a_private_name_is_noticed(code: str, name: str) -> None:
    assert name in private_names(code)
