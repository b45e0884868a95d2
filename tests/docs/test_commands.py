"""The commands and the Python code of the documents are run, with small stand-ins."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.docs.stand_ins import Workshop, filled, given
from tests.documents import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", "RELEASE.md"]
PAGES += [
    str(path.relative_to(ROOT))
    for name in ("docs", "examples")
    for path in (ROOT / name).rglob("*.md")
]
TUTORIAL = "docs/tutorial.md"  # is run whole, below

# What is not run here: a part of the command, or of the code, and why.
NOT_RUN = {
    "torchrun": "several processes, which tests/dr_plugins/generation/test_launch.py starts",
    "--engine ray": "a cluster, which tests/dr_plugins/generation/test_ray_engine.py starts",
    "torchvision:CIFAR100": "a download of 50,000 images",
    "enable timm": "changes this environment; tests/dr_plugins/test_startup.py runs it elsewhere",
    "TrainerCallback": "transformers, which examples/loops/huggingface_trainer.py is tried with",
    "ReinforcedTrainer": "transformers, see TrainerCallback",
    "custom_imports": "MMEngine, whose configs tests/mmlab_ext runs",
    "model = dict(": "MMEngine, see custom_imports",
    "backbone = dict(": "MMEngine, see custom_imports",
    "d2_ext": "Detectron2, whose configuration tests/d2_ext/test_imagenet_plus.py runs",
}


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a shell block, as words, without variables and comments."""
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


def steps(page: str) -> Iterator[list[str] | str]:
    """The commands and the Python code of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(shell|python)\n(.*?)^```$", text, re.M | re.S):
        yield from commands(block) if language == "shell" else [block]


def is_ours(step: list[str] | str) -> bool:
    """Whether a step is code, or a command of dr-plugins."""
    return isinstance(step, str) or "dr-plugins" in step[:1] or "dr_plugins" in step


def reason(step: list[str] | str) -> str | None:
    """Why a step is not run here."""
    text = step if isinstance(step, str) else " ".join(step)
    return next((why for part, why in NOT_RUN.items() if part in text), None)


STEPS = {page: list(steps(page)) for page in PAGES if page != TUTORIAL}
OURS = {page: [s for s in found if is_ours(s) and not reason(s)] for page, found in STEPS.items()}
OTHERS = [
    (page, step)
    for page, found in STEPS.items()
    for step in found
    if isinstance(step, list) and (reason(step) or not is_ours(step))
]


@pytest.mark.parametrize("page", [page for page, found in OURS.items() if found])
def test_a_page_works_as_it_stands(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in ("timm", "matplotlib", "uvicorn", "huggingface_hub", "accelerate", "lightning"):
        pytest.importorskip(needed)
    workshop = Workshop(tmp_path, monkeypatch)
    names: dict[str, Any] = given()
    for step in OURS[page]:
        if isinstance(step, str):
            workshop.execute(step, names)
        else:
            result = workshop.run(filled(" ".join(step[1:])).split())
            assert result.exit_code == 0, f"{step}\n{result.output}"
    assert set(workshop.looked) <= {200}


def arguments(step: list[str]) -> list[str]:
    """What follows the name of the command, without ellipses and redirection."""
    start = step.index("dr-plugins" if step[0] == "dr-plugins" else "dr_plugins")
    shown = itertools.takewhile(lambda word: word != ">", step[start + 1 :])
    return [word for word in shown if word != "..."]


def test_examples_of_the_help_and_commands_that_are_not_run_have_options_that_exist() -> None:
    from dr_plugins.cli.main import main

    context = click.Context(main, **main.context_settings)
    ours = {name: main.get_command(context, name) for name in main.list_commands(context)}
    examples = [step for each in ours.values() for step in commands(each.epilog or "")]
    kept = [step for step in examples if step[0] == "dr-plugins"]
    assert len(kept) > len(ours)
    for step in kept + [step for _, step in OTHERS if is_ours(step)]:
        name, *rest = arguments(step)
        own = click.Context(ours[name], parent=context)
        _, left, _ = ours[name].make_parser(own).parse_args(rest)
        assert not left, step


def test_what_is_not_run_is_in_the_pages() -> None:
    everything = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert [part for part in NOT_RUN if part not in everything] == []


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
