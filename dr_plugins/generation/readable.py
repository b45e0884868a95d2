"""Checking all images before generation, to report all damaged ones together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dr_plugins.errors import ImageReadError
from dr_plugins.images.folders import ClassFolders
from dr_plugins.images.skipping import read_keys
from dr_plugins.images.sources import ImageSource
from dr_plugins.shards.address import located
from dr_plugins.utils.quoting import quoted
from dr_plugins.utils.workers import alive, noticing_dead_workers

CHECKS = ("quick", "full")
"""Ways to check images: look at their beginnings and ends, or decode them."""

_BATCH = 64
_SHOWN = 20  # messages
_FEW = 8  # names
_logger = logging.getLogger(__name__)


def log_images(source: ImageSource) -> None:
    """Log the images' classes, whether their order is ambiguous, and which files were left out."""
    names = source.class_names
    if names is not None:
        shown = ", ".join(map(quoted, names[:_FEW])) + (", ..." if len(names) > _FEW else "")
        _logger.info("%d images of %d classes: %s", len(source), len(names), shown)
    if isinstance(source.base, ClassFolders) and (pair := source.base.ambiguous()):
        # A teacher that numbers only a few classes differently agrees with most labels.
        _logger.warning(
            "class %r precedes %r here, as in torchvision, but not always in timm's train.py. If "
            "a teacher was trained by it on these folders, pass a class map (--class-map) in its "
            "order",
            *pair,
        )
    if source.left_out:
        ends = [f"{n} {end or 'without'}" for end, n in source.left_out.most_common(_FEW)]
        _logger.warning(
            "files left out, as their extensions are not those of images: %d (%s)",
            source.left_out.total(),
            ", ".join(ends),
        )


class _Checks(Dataset["str | None"]):
    """The error message of each image, or None."""

    def __init__(self, source: ImageSource, positions: Sequence[int], check: str) -> None:
        self._source, self._positions, self._check = source, positions, check

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> str | None:
        try:
            self._source.check(self._positions[index], full=self._check == "full")
        except ImageReadError as error:
            return str(error)
        return None


def find_unreadable(
    source: ImageSource,
    positions: Sequence[int] | None = None,
    *,
    check: str = "quick",
    workers: int = 0,
    progress: bool = False,
) -> dict[str, str]:
    """Check images for unreadable ones.

    Args:
        source: The images.
        positions: Positions of the images to check; None means all.
        check: One of `CHECKS`.
        workers: Processes that check; 0 uses this process.
        progress: Show a progress bar.

    Returns:
        Error messages of the unreadable images, by key.

    Raises:
        WorkerError: A worker died.

    Example:
        >>> find_unreadable(ImageSource([], keys=[]))
        {}
    """
    if positions is None:
        positions = range(len(source))
    checks = _Checks(source, positions, check)
    loader = DataLoader(checks, _BATCH, num_workers=workers, collate_fn=list)
    found: dict[str, str] = {}
    done = 0
    bar = tqdm(desc="checking images", total=len(checks), unit=" images", disable=not progress)
    with bar, noticing_dead_workers():
        for batch in alive(loader):
            for offset, message in enumerate(batch):
                if message is not None:
                    found[source.keys[positions[done + offset]]] = message
            done += len(batch)
            bar.update(len(batch))
    return found


def check_readable(
    source: ImageSource,
    positions: Sequence[int],
    *,
    check: str = "quick",
    workers: int = 0,
    progress: bool = False,
) -> None:
    """Raise one error for all images that cannot be read; see `find_unreadable`.

    Raises:
        ImageReadError: Images cannot be read; names the first 20.
    """
    found = find_unreadable(source, positions, check=check, workers=workers, progress=progress)
    if len(found) == 1:
        raise ImageReadError(_remedied(next(iter(found.values()))))
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        messages = "; ".join(list(found.values())[:_SHOWN])
        raise ImageReadError(_remedied(f"{len(found)} images cannot be read: {messages}{more}"))


def _remedied(message: str) -> str:
    return (
        f"{message} To make the set without them, pass --skip-unreadable FILE: the paths of all "
        f"unreadable images are written to a new file; an existing file is the list to leave out"
    )


def skip_list(
    path: Path,
    source: ImageSource,
    *,
    check: str = "quick",
    workers: int = 0,
    progress: bool = False,
) -> list[str]:
    """Read the list of images to leave out, or find unreadable images and write it.

    An existing list is used unchanged, so a resumed run leaves out the same images.

    Args:
        path: UTF-8 text file, one key per line.
        source: The images.
        check: One of `CHECKS`.
        workers: Processes that check.
        progress: Show a progress bar.

    Returns:
        The keys, sorted.

    Raises:
        DatasetMismatchError: The list cannot be read.
        OutputError: It cannot be written.
    """
    if path.exists():
        keys = read_keys(path)
    else:
        found = find_unreadable(source, check=check, workers=workers, progress=progress)
        keys = sorted(found)
        text = "".join(f"{key}\n" for key in keys)
        located(path).write([text.encode(errors="surrogateescape")])
        for message in found.values():
            _logger.warning("left out: %s", message)
    if keys:
        examples = ", ".join(map(quoted, keys[:3])) + (", ..." if len(keys) > 3 else "")
        _logger.warning("images left out, as listed in %s: %d (%s)", path, len(keys), examples)
    return keys
