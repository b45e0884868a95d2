from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dr_plugins.mldr.archive import fingerprint, iter_members
from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.mldr.serialization import MAX_MEMBER_BYTES

FILES = [
    ("reinforced_data/2.pth.tar", b"two" * 400),
    ("./reinforced_data/10.pth.tar", b""),
    ("reinforced_data/config.pth.tar", b"config"),
    ("other/0.jb", b"x" * 512),
]


def write(path: Path, entries: list[tuple[Any, bytes]], mode: str = "w:gz", **options: Any) -> Path:
    with tarfile.open(path, mode, **options) as tar:
        for entry, data in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            info.size = len(data) if data else info.size
            tar.addfile(info, io.BytesIO(data))
    return path


def content(path: Path) -> list[tuple[str, int | None, bytes]]:
    return [(member.folder, member.index, read()) for member, read in iter_members(path)]


EXPECTED = [
    ("reinforced_data", 2, b"two" * 400),
    ("reinforced_data", 10, b""),
    ("reinforced_data", None, b"config"),
    ("other", 0, b"x" * 512),
]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_in_stored_order(tmp_path: Path, mode: str, layout: int) -> None:
    path = write(tmp_path / "a", FILES, mode, format=layout)  # type: ignore[arg-type]
    assert content(path) == EXPECTED


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_what_is_not_read_is_skipped(tmp_path: Path, mode: str) -> None:
    path = write(tmp_path / "a", FILES, mode)  # type: ignore[arg-type]
    names = [member.name for member, _ in iter_members(path)]
    assert names == [name for name, _ in FILES]
    read = [r() for number, (_, r) in enumerate(iter_members(path)) if number % 2 == 0]
    assert read == [b"two" * 400, b"config"]


def test_a_directory(tmp_path: Path) -> None:
    write(tmp_path / "a", FILES)  # type: ignore[arg-type]
    with tarfile.open(tmp_path / "a") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    found = content(tmp_path / "unpacked")
    assert sorted(found, key=repr) == sorted(EXPECTED, key=repr)
    inner = content(tmp_path / "unpacked" / "reinforced_data")
    assert {(index, data) for _, index, data in inner} == {e[1:] for e in EXPECTED[:3]}
    (tmp_path / "unpacked" / "5.pth.tar").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="is a link"):
        content(tmp_path / "unpacked")


def test_several_gzip_members_and_other_files(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.tar", [("README", b"hello"), ("._3.pth.tar", b"mac"), *FILES], "w")
    data, half = plain.read_bytes(), 1000
    (tmp_path / "a.gz").write_bytes(gzip.compress(data[:half]) + gzip.compress(data[half:]))
    assert content(tmp_path / "a.gz") == EXPECTED


def test_progress_adds_up_to_the_file(tmp_path: Path) -> None:
    entries = [(f"r/{i}.pth.tar", os.urandom(30_000)) for i in range(20)]
    path = write(tmp_path / "a", entries)  # type: ignore[arg-type]
    steps: list[int] = []
    for _ in iter_members(path, steps.append):
        pass
    assert all(step >= 0 for step in steps)
    assert 0.9 * path.stat().st_size < sum(steps) <= path.stat().st_size


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (special("r/0.pth.tar", tarfile.SYMTYPE, "/etc/passwd"), "a link"),
        (special("r/0.pth.tar", tarfile.LNKTYPE, "r/1.pth.tar"), "a link"),
        (special("r/0.pth.tar", tarfile.CHRTYPE), "a device"),
        (special("r/0.pth.tar", tarfile.BLKTYPE), "a device"),
        (special("r/0.pth.tar", tarfile.FIFOTYPE), "a device"),
        (special("r/0.pth.tar", tarfile.GNUTYPE_SPARSE), "type b'S'"),
        (special("r/0.pth.tar", b"Z"), "type b'Z'"),
        ("/etc/0.pth.tar", "unsafe"),
        ("r/../../0.pth.tar", "unsafe"),
        ("r\\..\\0.pth.tar", "unsafe"),
        ("r/\x1b[2J0.pth.tar", "unsafe"),
        ("r" * 120 + "/0.pth.tar", "type b'L'"),
    ],
)
def test_what_mldr_does_not_write_is_refused(tmp_path: Path, entry: Any, message: str) -> None:
    path = write(tmp_path / "a", [*FILES, (entry, b"")], format=tarfile.GNU_FORMAT)  # type: ignore[list-item]
    with pytest.raises(ArchiveError, match=message):
        content(path)


def test_extended_headers_may_not_rename(tmp_path: Path) -> None:
    info = tarfile.TarInfo("r/0.pth.tar")
    info.pax_headers = {"comment": "harmless"}
    assert len(content(write(tmp_path / "a", [(info, b"x")], format=tarfile.PAX_FORMAT))) == 1
    info.pax_headers = {"path": "/etc/passwd"}
    with pytest.raises(ArchiveError, match="renames"):
        content(write(tmp_path / "b", [(info, b"x")], format=tarfile.PAX_FORMAT))


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = special(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, b"x", b"g"])
def test_absurd_sizes_are_refused_before_reading(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header("r/0.pth.tar", 1 << 60, kind) + bytes(2048))
    with pytest.raises(ArchiveError, match="1,152,921,504,606,846,976"):
        content(path)
    path.write_bytes(header("r/0.pth.tar", MAX_MEMBER_BYTES + 1))
    with pytest.raises(ArchiveError, match="writes at most"):
        content(path)


def with_size(block: bytes, field: bytes) -> bytes:
    """A header with other bytes as its size, and the checksum that belongs to them."""
    changed = block[:124] + field + block[136:148] + b" " * 8 + block[156:]
    return changed[:148] + b"%06o\0 " % sum(changed) + changed[156:]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["r/0.pth.tar", "README"])
@pytest.mark.parametrize(
    "field",
    [
        b"\x80" + bytes(3) + b"\x80" + bytes(7),  # 2**63
        b"\x80" + b"\xff" * 11,
        b"\xff" * 12,  # -1
        b"\xff" + bytes(11),
        b"-0000000001\0",
        b"99999999999\0",
        b"junk\0\0\0\0\0\0\0\0",
        b"00100000000\0",  # 16 MiB: foreign files, too, take their time
    ],
)
def test_junk_as_the_size_of_a_member(
    tmp_path: Path, field: bytes, name: str, zipped: bool
) -> None:
    data = with_size(header(name, 0), field) + bytes(20_000)
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(ArchiveError):
        content(path)


def test_deeply_nested_directories(tmp_path: Path) -> None:
    here = os.getcwd()
    root = tmp_path / "a"
    root.mkdir()
    try:
        os.chdir(root)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    (root / "0.pth.tar").write_bytes(b"x")
    try:
        assert content(root) == [("", 0, b"x")]
    finally:  # pytest's own clean-up is recursive
        subprocess.run(["rm", "-rf", str(root)], check=True)


def test_only_files_and_directories_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ArchiveError, match="neither a file nor a directory"):
            content(path)


def test_endless_padding(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(bytes(40 << 20), 1))
    with pytest.raises(ArchiveError, match="after the end of the archive"):
        content(path)


def test_the_fingerprint_notices_another_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", FILES, "w")  # type: ignore[arg-type]
    before, status = fingerprint(path), path.stat()
    assert fingerprint(path) == before
    write(tmp_path / "b.tar", FILES, "w")  # type: ignore[arg-type]
    os.replace(tmp_path / "b.tar", path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `rsync -t` does
    assert fingerprint(path) != before
    folder = tmp_path / "unpacked" / "r"
    folder.mkdir(parents=True)
    (folder / "0.pth.tar").write_bytes(b"one")
    before = fingerprint(folder.parent)
    assert fingerprint(folder.parent) == before
    (folder / "0.pth.tar").write_bytes(b"two")  # its directory's time stays
    assert fingerprint(folder.parent) != before


@pytest.mark.parametrize("keep", [0, 1, 10, 300, 511, 512, 700, 1024])
def test_truncation(tmp_path: Path, keep: int) -> None:
    whole = write(tmp_path / "a.tar", FILES, "w").read_bytes()  # type: ignore[arg-type]
    (tmp_path / "b").write_bytes(whole[:keep])
    with pytest.raises(ArchiveError):
        content(tmp_path / "b")
    zipped = gzip.compress(whole)
    (tmp_path / "c").write_bytes(zipped[: min(keep, len(zipped) - 1)])
    with pytest.raises(ArchiveError):
        content(tmp_path / "c")


def test_a_damaged_gzip_file_is_noticed(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(write(tmp_path / "a", FILES, "w").read_bytes()))  # type: ignore[arg-type]
    data[-5] ^= 1  # of the checksum
    (tmp_path / "b").write_bytes(bytes(data))
    with pytest.raises(ArchiveError, match="truncated or damaged"):
        content(tmp_path / "b")


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("<html>not found</html>" * 100)
    with pytest.raises(ArchiveError, match=r"neither a gzip nor a tar file.*<html>"):
        content(tmp_path / "page")
    with pytest.raises(ArchiveError, match="No such file"):
        content(tmp_path / "missing")
