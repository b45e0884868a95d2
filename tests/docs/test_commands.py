"""Every command in the documents exists, with its options; those of the tutorial are run."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.documents import ROOT, code_blocks

PAGES = ["README.md", "CONTRIBUTING.md", "RELEASE.md"]
PAGES += [
    str(path.relative_to(ROOT))
    for name in ("docs", "examples")
    for path in (ROOT / name).rglob("*.md")
]
ELLIPSES = {"...", "…", "[...]"}
CHECKED_TYPES = (click.Choice, click.IntRange, click.FloatRange)


def commands(page: str) -> Iterator[list[str]]:
    """The commands of a page's shell blocks, as words, without variables and comments."""
    for block in code_blocks(page, "shell"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if not set(word) <= set(";&|"):
                    words.append(word)
                elif words:
                    yield [w for i, w in enumerate(words) if i or "=" not in w]
                    words = []


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


def ours(words: list[str]) -> list[str] | None:
    """The arguments of dr-plugins, however it is started."""
    if words[0] == "dr-plugins":
        return words[1:]
    text = "\0".join(words)
    _, found, rest = text.partition("-m\0dr_plugins\0")
    return rest.split("\0") if found else None


DR_PLUGINS = [(page, args) for page, words in COMMANDS if (args := ours(words))]
OTHERS = [(page, words) for page, words in COMMANDS if ours(words) is None]


@pytest.mark.parametrize(("page", "words"), DR_PLUGINS, ids=lambda v: str(v)[:60])
def test_dr_plugins_knows_the_options(page: str, words: list[str]) -> None:
    pytest.importorskip("timm")
    from dr_plugins.cli.main import main

    if words[0].startswith("--"):
        return
    context = click.Context(main, **main.context_settings)
    command = main.get_command(context, words[0])
    assert command is not None, words[0]
    given = [
        "X" if word in ELLIPSES else word
        for previous, word in itertools.pairwise(words)
        if word not in ELLIPSES or previous.startswith("--")
    ]
    context = click.Context(command, parent=context, info_name=words[0])
    values, rest, _ = command.make_parser(context).parse_args(list(given))
    assert not rest
    for parameter in command.params:
        value = values.get(parameter.name or "")
        if value is None or isinstance(value, bool):
            assert not (parameter.required and given == words[1:]), parameter.name
        elif isinstance(parameter.type, CHECKED_TYPES):
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if not item.isupper():  # S, K, X: what a reader fills in
                    parameter.type.convert(item, parameter, context)


def targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


def extras() -> set[str]:
    """The extras of the package."""
    (section,) = re.findall(
        r"^\[project.optional-dependencies\]\n(.*?)^\[",
        (ROOT / "pyproject.toml").read_text(),
        re.M | re.S,
    )
    return set(re.findall(r"^([a-z0-9]+) = \[", section, re.M))


@pytest.mark.parametrize(("page", "words"), OTHERS, ids=lambda v: str(v)[:60])
def test_other_commands_name_what_exists(page: str, words: list[str]) -> None:
    line = " ".join(words)
    if words[0] == "make":
        named = {word for word in words[1:] if re.fullmatch("[a-z]+", word)}
        assert named <= targets()
    for group in re.findall(r"pip install .*?\[([a-z0-9,]+)\]", line):
        assert set(group.split(",")) <= extras()
    for module in re.findall(r"-m ((?:examples|benchmarks|dr_plugins|timm_ext)[\w.]*)", line):
        assert importlib.util.find_spec(module) is not None
    for path in re.findall(
        r"(?:^| )((?:examples|docs|benchmarks|tests|\.ci|requirements)/[\w./-]+)", line
    ):
        assert (ROOT / path).exists() or "data" in path, path


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    for needed in ("timm", "matplotlib"):
        pytest.importorskip(needed)
    file = ROOT / "docs" / "site" / "tutorial.py"
    spec = importlib.util.spec_from_file_location("tutorial", file)
    assert spec is not None
    assert spec.loader is not None
    tutorial = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tutorial)
    printed = tutorial.run(tmp_path)
    assert "p = 0.99" in printed
    summary = (tmp_path / "results" / "summary.md").read_text()
    assert "fashion_resnet_student" in summary
    for picture in tutorial.PICTURES:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
