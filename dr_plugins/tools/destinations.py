"""Where shard sets are pushed to: object stores, and the Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dr_plugins.errors import OutputError, ReinforcementError
from dr_plugins.shards.manifest import FileEntry
from dr_plugins.shards.remote import RemotePath, filesystem, read_ranges

HUB = "hf://datasets/"
_STREAMS = 4  # files that are copied at the same time
_COMPARED = 1 << 16  # bytes at both ends of a file; a shard's first ones name its set


class Store:
    """An object store, or whatever else fsspec can write to."""

    def __init__(self, place: RemotePath) -> None:
        self._place = place
        self._files, self._path = filesystem(place.address)

    def missing(self, entries: Sequence[FileEntry], source: Path) -> list[FileEntry]:
        """Return the files that are not there yet."""
        found: list[dict[str, Any]] = []
        with _writing(self._place), contextlib.suppress(FileNotFoundError):
            found = self._files.ls(self._path, detail=True)
        sizes = {entry["name"].rpartition("/")[2]: entry["size"] for entry in found}
        # Stores show a file when it is whole, but it may be of another set that was begun here.
        there = [e.file for e in entries if sizes.get(e.file) == (source / e.file).stat().st_size]
        kept = self._same_ends(there, source)
        return [entry for entry in entries if entry.file not in kept]

    def _same_ends(self, names: Sequence[str], source: Path) -> set[str]:
        """The names of those files that begin and end as the set's."""
        places: list[tuple[str, int, int]] = []
        for name in names:
            size = (source / name).stat().st_size
            starts = (0, max(size - _COMPARED, 0))
            places += [(name, start, min(start + _COMPARED, size)) for start in starts]
        found = read_ranges(
            [self._place / name for name, _, _ in places],
            [start for _, start, _ in places],
            [end for _, _, end in places],
        )
        other = {p[0] for p, data in zip(places, found, strict=True) if data != _read(source, *p)}
        return set(names) - other

    def put(self, files: Sequence[Path]) -> None:
        """Copy files; each appears whole or not at all."""
        with _writing(self._place), ThreadPoolExecutor(_STREAMS) as pool:
            list(pool.map(self._put, files))

    def _put(self, file: Path) -> None:
        self._files.put_file(str(file), f"{self._path.rstrip('/')}/{file.name}")


def _read(folder: Path, name: str, start: int, end: int) -> bytes:
    with open(folder / name, "rb") as file:
        file.seek(start)
        return file.read(end - start)


class Hub:
    """A dataset repository of the Hub; several files are one commit."""

    def __init__(self, address: str) -> None:
        from huggingface_hub import HfApi

        owner, _, rest = address.removeprefix(HUB).strip("/").partition("/")
        if not rest:
            raise OutputError(f"{address} names no repository of the Hub; expected {HUB}OWNER/NAME")
        name, *folder = rest.split("/")
        self._api, self._repo = HfApi(), f"{owner}/{name}"
        self._folder, self._place = "".join(f"{part}/" for part in folder), address
        with _writing(self._place):
            self._api.create_repo(self._repo, repo_type="dataset", exist_ok=True)

    def missing(self, entries: Sequence[FileEntry], source: Path) -> list[FileEntry]:
        """Return the files that are not there yet."""
        from huggingface_hub.hf_api import RepoFile

        with _writing(self._place):
            files = self._api.list_repo_tree(self._repo, repo_type="dataset", recursive=True)
            known = {(f.path, f.lfs.sha256) for f in files if isinstance(f, RepoFile) and f.lfs}
        return [
            entry for entry in entries if (self._folder + entry.file, entry.sha256) not in known
        ]

    def put(self, files: Sequence[Path]) -> None:
        """Add files in one commit."""
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(self._folder + file.name, str(file)) for file in files]
        message = f"Add {files[0].name}" + (f" to {files[-1].name}" if len(files) > 1 else "")
        with _writing(self._place):
            self._api.create_commit(
                self._repo, operations, commit_message=message, repo_type="dataset"
            )


@contextlib.contextmanager
def _writing(place: RemotePath | str) -> Iterator[None]:
    try:
        yield
    except ReinforcementError:
        raise
    except Exception as error:  # each server's library raises other types
        raise OutputError(
            f"cannot write to {place}: {type(error).__name__}: {error}. Run the same command again "
            f"to resume."
        ) from error
