"""How ``dr-plugins`` ends when it is interrupted, and where it may write."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result

from dr_plugins.shards.reader import ShardSet
from tests.dr_plugins.cli.test_main import TEACHER, error_of, reinforce, run


def test_sigterm_ends_as_ctrl_c_does(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("dr_plugins.generation.making.ShardMaker._noted", terminated)
    before = signal.getsignal(signal.SIGTERM)
    result = reinforce(photographs, tmp_path / "set")
    assert result.exit_code == 128 + signal.SIGTERM
    assert "same command" in result.stderr
    assert signal.getsignal(signal.SIGTERM) is before


INTERRUPTED = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                pass  # as some libraries do
interrupted = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupts())
signal.signal(signal.SIGINT, signal.default_int_handler)
from dr_plugins.cli import run
run()
"""


@pytest.mark.parametrize("module", ["click", "torch"])
def test_ctrl_c_while_modules_are_imported(tmp_path: Path, photographs: Path, module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, module, "reinforce", "--images", photographs]
    command += [*TEACHER, "--out", tmp_path / "set"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Aborted!" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_output_directory_whose_name_is_not_utf8(tmp_path: Path, photographs: Path) -> None:
    out = tmp_path / os.fsdecode(b"set\xff")
    made = reinforce(photographs, out)
    assert made.exit_code == 0, made.output
    assert len(ShardSet(out)) == 12
    assert "seed: 0 there, 1 now" in error_of(reinforce(photographs, out, "--seed", 1))
    for command in ("info", "verify"):
        assert run(command, out).exit_code == 0
    assert "shard-00000" in error_of(damaged(out))


def damaged(out: Path) -> Result:
    (out / "shard-00000.safetensors").write_bytes(b"")
    return run("info", out)


def test_a_finished_set_need_not_be_writable(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    assert reinforce(photographs, out).exit_code == 0

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("dr_plugins.shards.location.FileLocks", read_only)
    monkeypatch.setattr(os, "replace", read_only)
    again = reinforce(photographs, out)
    assert again.exit_code == 0, again.output
    assert "OutputError" not in again.output
    shutil.rmtree(out)
    assert os.strerror(errno.EROFS) in error_of(reinforce(photographs, out))
