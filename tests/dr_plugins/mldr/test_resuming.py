"""Interrupted imports, and what they find when they resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dr_plugins.errors import OutputError, SettingsMismatchError
from dr_plugins.mldr import ArchiveError, ImageOrder, ImportSettings, import_archives, planning
from dr_plugins.mldr import importer as importer_module
from dr_plugins.mldr.worker import Worker

from .conftest import Members, files_of, order_of, shares, write_tar


@pytest.fixture
def small_shards(monkeypatch: Any) -> None:
    monkeypatch.setattr(planning, "_SHARD_IMAGES", 5)
    monkeypatch.setattr(importer_module, "_BATCH_MEMBERS", 1)


@pytest.fixture
def reference(small_shards: None, images: Path, archive: Path, tmp_path: Path) -> dict[str, bytes]:
    """The set of the archive, imported without interruption."""
    import_archives([archive], order_of(images), tmp_path / "reference")
    return files_of(tmp_path / "reference")


def run_script(folder: Path, text: str, *arguments: object, **options: Any) -> Any:
    """Run a program in a folder; returns when its workers, which share its output, have ended."""
    (folder / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, "script.py", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


@pytest.mark.parametrize("after", range(1, 12, 2))
def test_an_interrupted_import_goes_on(
    images: Path,
    tmp_path: Path,
    archive: Path,
    after: int,
    monkeypatch: Any,
    reference: dict[str, bytes],
) -> None:
    stored: list[int] = []
    original = Worker.store

    def store(self: Any, tasks: Any) -> Any:
        if len(stored) == after:
            raise KeyboardInterrupt
        stored.append(tasks[0].number)
        return original(self, tasks)

    monkeypatch.setattr(Worker, "store", store)
    with pytest.raises(KeyboardInterrupt):
        import_archives([archive], order_of(images), tmp_path / "set")
    monkeypatch.setattr(Worker, "store", original)
    looked: list[Path] = []
    iter_members = importer_module.iter_members
    monkeypatch.setattr(
        "dr_plugins.mldr.inspection.iter_members", lambda *a: looked.append(a[0]) or []
    )
    again: list[int] = []

    def counting(self: Any, tasks: Any) -> Any:
        again.extend(task.number for task in tasks)
        return original(self, tasks)

    monkeypatch.setattr(Worker, "store", counting)
    monkeypatch.setattr(importer_module, "iter_members", iter_members)
    report = import_archives([archive], order_of(images), tmp_path / "set")
    assert looked == []  # the first look is remembered
    assert sorted(stored + again) == list(range(12))  # nothing is decoded twice
    assert shares(report) == [1.0]  # counted over all images all the same
    assert files_of(tmp_path / "set") == reference


def test_damaged_remains_are_made_again(
    images: Path, tmp_path: Path, archive: Path, monkeypatch: Any, reference: dict[str, bytes]
) -> None:
    original = Worker.finish

    def finish(self: Any, shard: int, *rest: Any) -> Any:
        if shard == 2:
            raise KeyboardInterrupt
        return original(self, shard, *rest)

    monkeypatch.setattr(Worker, "finish", finish)
    with pytest.raises(KeyboardInterrupt):
        import_archives([archive], order_of(images), tmp_path / "set")
    monkeypatch.setattr(Worker, "finish", original)
    staged = tmp_path / "set" / "importing" / "shard-00002.records"
    for path in [staged, *(tmp_path / "set").glob("shard-*.safetensors")]:
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(bytes(data))
    import_archives([archive], order_of(images), tmp_path / "set")
    assert files_of(tmp_path / "set") == reference


KILLED = """
import os, sys
from pathlib import Path
from dr_plugins.mldr import ImageOrder, ImportSettings, importer, planning
from dr_plugins.images.sources import open_source
planning._SHARD_IMAGES, importer._BATCH_MEMBERS = 5, 1
images, archive, out = sys.argv[1:4]
handle, seen = importer._Import._handle, []

def dying(self, result, *rest):
    handle(self, result, *rest)
    seen.append(1)
    if len(seen) == 6:
        os.kill(os.getpid(), 9)

if __name__ == "__main__":
    importer._Import._handle = dying
    order = ImageOrder.of_source(open_source(images))
    importer.import_archives([archive], order, out, ImportSettings(workers=2))
"""


def test_a_killed_import_leaves_no_processes_and_can_be_resumed(
    images: Path, tmp_path: Path, archive: Path, reference: dict[str, bytes]
) -> None:
    done = run_script(tmp_path, KILLED, images, archive, "set")
    assert done.returncode == -signal.SIGKILL
    import_archives([archive], order_of(images), tmp_path / "set")
    assert files_of(tmp_path / "set") == reference


INTERRUPTED = """
import os, signal, sys
from concurrent.futures import ProcessPoolExecutor
from dr_plugins.cli.main import main
from dr_plugins.mldr import importer, planning
planning._SHARD_IMAGES, importer._BATCH_MEMBERS = 5, 1
images, archive, out, after = sys.argv[1:5]
submit, seen = ProcessPoolExecutor.submit, []

def interrupted(*arguments):
    seen.append(1)
    if len(seen) == int(after):  # as a terminal does: the workers hear it too
        os.killpg(0, signal.SIGINT)
    result = submit(*arguments)
    if len(seen) == int(after):
        os.killpg(0, signal.SIGINT)
    return result

if __name__ == "__main__":
    ProcessPoolExecutor.submit = interrupted
    main(["import-mldr", archive, "--images", images, "--out", out, "--workers", "2"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 6])
def test_ctrl_c_ends_an_import_without_a_traceback(
    images: Path, tmp_path: Path, archive: Path, after: int, reference: dict[str, bytes]
) -> None:
    arguments = (images, archive, "set", after)
    done = run_script(tmp_path, INTERRUPTED, *arguments, start_new_session=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert "same command" in done.stdout
    import_archives([archive], order_of(images), tmp_path / "set")
    assert files_of(tmp_path / "set") == reference


def test_a_finished_set_is_left_alone(images: Path, tmp_path: Path, archive: Path) -> None:
    import_archives([archive], order_of(images), tmp_path / "set")
    before = files_of(tmp_path / "set")
    assert import_archives([archive], order_of(images), tmp_path / "set").agreement == []
    assert files_of(tmp_path / "set") == before
    with pytest.raises(SettingsMismatchError, match="probs_dtype"):
        import_archives(
            [archive], order_of(images), tmp_path / "set", ImportSettings(probs_dtype="float32")
        )


def stop_at(monkeypatch: Any, member: int, archive: Path, images: Path, out: Path) -> None:
    """Import until one member is about to be stored."""
    original = Worker.store

    def store(self: Any, tasks: Any) -> Any:
        if tasks[0].number == member:
            raise KeyboardInterrupt
        return original(self, tasks)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "store", store)
        with pytest.raises(KeyboardInterrupt):
            import_archives([archive], order_of(images), out)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("form", ["gzip", "tar", "directory"])
@pytest.mark.parametrize("finished", [True, False])
def test_an_exchanged_archive_is_another_set(
    images: Path, tmp_path: Path, members: Members, monkeypatch: Any, form: str, finished: bool
) -> None:
    def write(seed: int) -> Path:
        if form != "directory":
            mode = "w:gz" if form == "gzip" else "w"
            return write_tar(tmp_path / "a.tar", members(seed=seed), mode)
        for name, data in members(seed=seed):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
        return tmp_path / "reinforced_data"

    archive, out = write(0), tmp_path / "set"
    if finished:
        import_archives([archive], order_of(images), out)
    else:
        stop_at(monkeypatch, 5, archive, images, out)
    before = files_of(out)
    write(1)
    with pytest.raises(SettingsMismatchError, match="archive_digests"):
        import_archives([archive], order_of(images), out)
    assert files_of(out) == before
    write(0)  # another file, the same content
    import_archives([archive], order_of(images), out)
    import_archives([archive], order_of(images), tmp_path / "reference")
    assert files_of(out) == files_of(tmp_path / "reference")


def test_another_order_is_another_set(
    images: Path, tmp_path: Path, archive: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(importer_module, "_BATCH_MEMBERS", 1)
    stop_at(monkeypatch, 5, archive, images, tmp_path / "set")
    keys = list(order_of(images).keys)
    keys[0], keys[1] = keys[1], keys[0]
    (tmp_path / "list").write_text("\n".join(keys))
    with pytest.raises(SettingsMismatchError, match="order"):
        import_archives([archive], ImageOrder.of_list(tmp_path / "list", images), tmp_path / "set")


@pytest.mark.parametrize("change", ["content", "missing"])
def test_an_archive_that_changes_while_it_is_read(
    images: Path, tmp_path: Path, archive: Path, members: Members, monkeypatch: Any, change: str
) -> None:
    replaced = members(seed=1) if change == "content" else members()[:-3]
    write_tar(tmp_path / "other.tar.gz", replaced)
    iter_members = importer_module.iter_members
    monkeypatch.setattr(
        importer_module, "iter_members", lambda path: iter_members(tmp_path / "other.tar.gz")
    )
    with pytest.raises(ArchiveError, match="has changed"):
        import_archives([archive], order_of(images), tmp_path / "set")
    assert not (tmp_path / "set" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["thesis.tex", "shard-00000.records.bak", "shard-00000.records/x"])
def test_files_that_no_import_has_made_are_kept(
    images: Path, tmp_path: Path, archive: Path, name: str
) -> None:
    foreign = tmp_path / "set" / "importing" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("years of work")
    with pytest.raises(OutputError, match=r"importing.*holds"):
        import_archives([archive], order_of(images), tmp_path / "set")
    assert foreign.read_text() == "years of work"


def test_files_that_appear_meanwhile_are_kept(
    images: Path, tmp_path: Path, archive: Path, monkeypatch: Any
) -> None:
    foreign = tmp_path / "set" / "importing" / "thesis.tex"
    finish = Worker.finish

    def writing(self: Any, *arguments: Any) -> Any:
        foreign.write_text("years of work")
        return finish(self, *arguments)

    monkeypatch.setattr(Worker, "finish", writing)
    import_archives([archive], order_of(images), tmp_path / "set")
    assert [file.name for file in foreign.parent.iterdir()] == ["thesis.tex"]


def test_a_link_in_the_place_of_unfinished_work(
    images: Path, tmp_path: Path, archive: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "importing").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="link"):
        import_archives([archive], order_of(images), tmp_path / "set")
    (tmp_path / "set" / "importing").unlink()
    (tmp_path / "set" / "importing").write_text("a file")
    with pytest.raises(OutputError, match="importing"):
        import_archives([archive], order_of(images), tmp_path / "set")
