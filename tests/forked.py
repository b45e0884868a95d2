"""Programs in separate processes, which find PyTorch and timm imported.

Importing them takes four seconds, and one to end. A server imports them once, and forks a process
for each program.
"""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_TIMM = ("torch", "torchvision")


def run_python(
    arguments: Sequence[Any],
    env: Mapping[str, str] | None = None,
    imported: tuple[str, ...] = (*WITHOUT_TIMM, "timm"),
) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` (a script, or -m and a module) from the project's folder.

    It saves little where a program spawns processes itself, which import everything again.
    `env` is added to this process's environment. What an interpreter reads of it when it starts,
    such as PYTHONPATH, has no effect. `imported` names what the program finds imported.
    """
    server = _server(imported)
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "arguments": [str(argument) for argument in arguments],
            "environment": {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            "folder": folder,
        }
        print(json.dumps(request), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        out, err = ((Path(folder) / name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(request["arguments"], status, out, err)


@functools.cache
def _server(imported: tuple[str, ...]) -> subprocess.Popen[str]:
    """Ends when this process does, which closes its input."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.forked", *imported],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    gc.freeze()  # a process that ends then leaves these objects, and the pages they are on, alone
    for line in sys.stdin:
        child = os.fork()
        if not child:
            answers.close()
            # Not caught: the interpreter reports errors and ends as it always does.
            return _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers)


def _become(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    _redirect(sys.stdout, Path(folder) / "stdout")
    _redirect(sys.stderr, Path(folder) / "stderr")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = str(ROOT)
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(arguments[0])
        runpy.run_path(arguments[0], run_name="__main__")


def _redirect(stream: TextIO, path: Path) -> None:
    stream.flush()
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, stream.fileno())
    os.close(file)


if __name__ == "__main__":
    _serve()
