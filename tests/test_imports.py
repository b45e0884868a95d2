"""What an import loads: the core no framework, an extension only its own.

Every check runs in a process of its own, because this one may have loaded anything already.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.packages import EXTENSIONS, FRAMEWORKS, NEEDS, ROOT, modules_of

CORE = "dr_plugins"
MODELS = "dr_models"

# Answers each line of JSON, names to import and names that must not be importable at all, with the
# top-level packages that are loaded afterwards, or null. With None in sys.modules an import raises
# ModuleNotFoundError and find_spec gives None. torch, which everything here needs, is loaded once.
SERVER = """
import importlib, json, os, sys
import torch, torchvision
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
for line in sys.stdin:
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            print("null", file=answers)
        continue
    names, hidden = json.loads(line)
    sys.modules.update(dict.fromkeys(hidden))
    for name in names:
        importlib.import_module(name)
    loaded = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
    print(json.dumps(sorted(loaded)), file=answers)
    os._exit(0)
os._exit(0)
"""
LoadedBy = Callable[..., set[str]]


@pytest.fixture(scope="module")
def loaded_by() -> Iterator[LoadedBy]:
    """Top-level packages that an interpreter holds after importing some in a process of its own."""
    # What Detectron2's sdist lacks, in the module that it asks for itself; read by nothing else.
    stand_ins = {"DETECTRON2_ENV_MODULE": str(ROOT / "tests" / "d2_ext" / "stand_ins.py")}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=ROOT,
        env={**os.environ, **stand_ins},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    requests, answers = server.stdin, server.stdout

    def ask(names: Sequence[str], hidden: Sequence[str] = ()) -> set[str]:
        print(json.dumps([names, hidden]), file=requests, flush=True)
        answer = json.loads(answers.readline())
        assert answer is not None, "an import failed; its traceback is on stderr"
        return set(answer)

    with server:
        yield ask


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
