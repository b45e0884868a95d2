"""Copying shard sets to servers and from them: resumable, checked, the manifest last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm.auto import tqdm

from dr_plugins.errors import FormatError, OutputError, SettingsMismatchError
from dr_plugins.images.sources import ImageSource
from dr_plugins.shards.address import located
from dr_plugins.shards.claims import locked
from dr_plugins.shards.container import file_digest, map_tensors, unreadable
from dr_plugins.shards.location import LocalPath
from dr_plugins.shards.manifest import FileEntry, Manifest
from dr_plugins.shards.remote import RemotePath
from dr_plugins.tools.card import (
    SHEET_NAME,
    TABLE_NAME,
    write_card,
    write_preview,
    write_sheet,
)
from dr_plugins.tools.destinations import HUB, Hub, Store
from dr_plugins.utils.files import MANIFEST_NAME

_STREAMS = 4  # files that are copied at the same time
_FILES_PER_COMMIT = 64  # the Hub limits commits per hour


def pull(address: str, directory: str | os.PathLike[str], *, progress: bool = False) -> Manifest:
    """Copy a shard set to a local directory, or resume an interrupted copy.

    Files that are there already are checked and kept; each one that arrives is compared with its
    SHA-256 before it appears.

    Args:
        address: The set: ``s3://...``, ``gs://...``, ``hf://datasets/OWNER/NAME``,
            ``https://...``.
        directory: Where to copy it; created if needed.
        progress: Show a progress bar.

    Raises:
        FormatError: The remote set is incomplete or damaged, or cannot be read.
        SettingsMismatchError: The directory holds files of another set.
        OutputError: A file cannot be written.

    Example:
        >>> pull("hf://datasets/OWNER/NAME", "imagenet-plus")               # doctest: +SKIP
    """
    source, target = _remote(address), LocalPath(Path(directory))
    manifest = Manifest.load(source)
    with locked(target):
        _refuse_another(target, manifest)

        def fetch(entry: FileEntry) -> None:
            if not _holds(target / entry.file, entry, manifest):
                _fetch(source / entry.file, target / entry.file, entry)

        _each(fetch, [manifest.index, *manifest.shards], "pull", progress)
        manifest.save(target)
    return manifest


def push(
    directory: str | os.PathLike[str],
    address: str,
    *,
    licence: str,
    images: ImageSource | None = None,
    progress: bool = False,
) -> None:
    """Copy a shard set to a server, or resume an interrupted copy.

    A dataset card (``README.md``) that says what the set is and how to train with it, a small table
    for the Hub's viewer (``preview.parquet``) and, with `images`, a picture (``views.jpg``) are
    written next to it. The manifest is copied last, so an incomplete set cannot be read.

    Args:
        directory: The shard set.
        address: Where to copy it: ``s3://...``, ``gs://...``, ``hf://datasets/OWNER/NAME``.
        licence: Identifier of the licence of the answers, such as ``cc-by-4.0``; for the card.
        images: The images; the card then shows four of them with their views. Everybody who may
            read the set sees these.
        progress: Show a progress bar.

    Raises:
        FormatError: A file of the set is missing or damaged.
        SettingsMismatchError: There is another set at the address.
        UnknownImageError: The images are not those of the set.
        ImageChangedError: An image is not the one that was reinforced.
        OutputError: A file cannot be written there.

    Example:
        >>> push("imagenet-plus", "hf://datasets/OWNER/NAME",               # doctest: +SKIP
        ...      licence="cc-by-4.0")
    """
    source, place = Path(directory), _remote(address)
    manifest = Manifest.load(located(source))
    _refuse_missing(source, manifest)
    destination: Hub | Store = Hub(address) if address.startswith(HUB) else Store(place)
    _refuse_another(place, manifest)
    entries = destination.missing([manifest.index, *manifest.shards], source)

    def check(entry: FileEntry) -> Path:
        if file_digest(source / entry.file) != entry.sha256:
            raise FormatError(f"{source / entry.file} is damaged: its checksum is another one")
        return source / entry.file

    bar = tqdm(total=len(entries), desc="push", unit=" files", disable=not progress)
    with bar, TemporaryDirectory() as temporary:
        extras = write_preview(directory, Path(temporary, TABLE_NAME))
        if images is not None:
            extras += write_sheet(directory, images, Path(temporary, SHEET_NAME))
        card = write_card(manifest, address, licence, extras, Path(temporary, "README.md"))
        for batch in _batches(entries, _FILES_PER_COMMIT):
            destination.put([check(entry) for entry in batch])
            bar.update(len(batch))
        destination.put([card, *extras])
        destination.put([source / MANIFEST_NAME])


def _remote(address: str) -> RemotePath:
    place = located(address)
    if not isinstance(place, RemotePath):
        raise FormatError(f"{address} is no address; expected one such as s3://bucket/set")
    return place


def _refuse_missing(directory: Path, manifest: Manifest) -> None:
    for entry in (manifest.index, *manifest.shards):
        try:
            (directory / entry.file).stat()
        except OSError as error:
            raise unreadable(directory / entry.file, error) from error


def _refuse_another(place: LocalPath | RemotePath, manifest: Manifest) -> None:
    file = place / MANIFEST_NAME
    try:
        is_there = file.exists()
    except OSError as error:
        raise OutputError(
            f"cannot look for {file}: {error.strerror or error}. Check the address, the network "
            f"and your credentials, then run the same command again."
        ) from error
    if is_there:
        there = Manifest.load(place).set_id
        if there != manifest.set_id:
            raise SettingsMismatchError(
                f"{place} holds the shard set {there}, not {manifest.set_id}; choose another place"
            )


def _holds(file: LocalPath, entry: FileEntry, manifest: Manifest) -> bool:
    """Whether a file is there and whole; an error if it is another set's."""
    if not file.exists():
        return False
    try:
        if file_digest(file) == entry.sha256:
            return True
        found = map_tensors(file)[1].get("set", manifest.set_id)
    except FormatError:
        return False
    if found != manifest.set_id:
        raise SettingsMismatchError(
            f"{file} belongs to the shard set {found}, not to {manifest.set_id}; choose another "
            f"directory"
        )
    return False


def _fetch(source: RemotePath, target: LocalPath, entry: FileEntry) -> None:
    temporary = target.path.with_name(f"{target.name}.tmp")
    try:
        source.download(temporary)
        if LocalPath(temporary).digest() != entry.sha256:
            source.download(temporary)  # damaged on its way, perhaps
        if (found := LocalPath(temporary).digest()) != entry.sha256:
            raise FormatError(
                f"{source} is damaged: its SHA-256 is {found}, the manifest's {entry.sha256}"
            )
        os.replace(temporary, target.path)
    except OSError as error:
        raise OutputError(
            f"cannot copy {source} to {target}: {error.strerror or error}. Run the same command "
            f"again to resume."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _each(
    work: Callable[[FileEntry], None], entries: Sequence[FileEntry], name: str, progress: bool
) -> None:
    with ThreadPoolExecutor(_STREAMS) as pool:
        tasks = [pool.submit(work, entry) for entry in entries]
        try:
            for task in tqdm(
                as_completed(tasks),
                total=len(tasks),
                desc=name,
                unit=" files",
                disable=not progress,
            ):
                task.result()
        finally:  # after an error, or Ctrl-C
            pool.shutdown(cancel_futures=True)


def _batches(entries: Iterable[FileEntry], size: int) -> Iterator[list[FileEntry]]:
    remaining = iter(entries)
    while batch := list(islice(remaining, size)):
        yield batch
