"""The file that keeps the statistics of a shard set, next to it or in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from dr_plugins.errors import OutputError
from dr_plugins.shards.cache import make_room
from dr_plugins.shards.location import LocalPath, Location
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics.computing import compute_statistics
from dr_plugins.statistics.image_statistics import COLUMNS, Confusion, ImageStatistics
from dr_plugins.utils.files import cache_directory

_NAME = "statistics.npz"
_VERSION = "1"  # of the columns and of what they mean
_logger = logging.getLogger(__name__)


def open_statistics(
    shards: ShardSet, workers: int = 0, *, progress: bool = False
) -> ImageStatistics:
    """Read the statistics of a shard set, or compute them and keep them.

    They are kept in ``statistics.npz`` in the set's directory, or in ``$DR_PLUGINS_CACHE`` where
    the set is remote or cannot be written to. The file states the checksums of the set's files; one
    that is damaged, or of another set, is replaced.

    Args:
        shards: The set.
        workers: Processes that compute; 0 uses this one.
        progress: Show a progress bar.

    Raises:
        FormatError: A shard is missing or damaged, or the set was replaced since it was opened.

    Example:
        >>> open_statistics(ShardSet("imagenet-plus")).agreement.mean()     # doctest: +SKIP
        0.8236
    """
    shards.check_in_place()
    identity = _identity(shards.manifest)
    for file in _files(shards, identity):
        found = _read(file, identity, len(shards))
        if found is not None:
            return found
    statistics = compute_statistics(shards, workers, progress=progress)
    _keep(statistics, shards, identity)
    return statistics


def _identity(manifest: Manifest) -> str:
    """Digest of all that the statistics depend on."""
    files = (entry.sha256 for entry in (manifest.index, *manifest.shards))
    return hashlib.sha256("\n".join([_VERSION, manifest.set_id, *files]).encode()).hexdigest()


def _files(shards: ShardSet, identity: str) -> Iterator[Location]:
    """Where the file may be, the best place first."""
    if isinstance(shards.location, LocalPath):
        yield shards.location / _NAME
    yield LocalPath(cache_directory() / "statistics" / f"{identity}.npz")


def _read(file: Location, identity: str, images: int) -> ImageStatistics | None:
    """Read a file; None if there is none, or a damaged one, or that of another set."""
    try:
        with np.load(io.BytesIO(file.map().data), allow_pickle=False) as arrays:
            if str(arrays["identity"]) != identity:
                _logger.info("%s is of another set, or of an older version of it", file)
                return None
            columns = {name: _checked(arrays[name], name, images) for name in COLUMNS}
            labels, classes, counts = arrays["confusion"].T
            confusion = Confusion(labels.astype(np.int32), classes.astype(np.int32), counts)
            return ImageStatistics(**columns, confusion=confusion)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        _logger.warning("%s is damaged (%s): the statistics are computed again", file, error)
        return None


def _checked(column: np.ndarray, name: str, images: int) -> np.ndarray:
    dtype, shape = COLUMNS[name]
    if column.dtype != dtype or column.shape != (images, *shape):
        raise ValueError(f"{name} is {column.dtype} of shape {column.shape}")
    return column


def _keep(statistics: ImageStatistics, shards: ShardSet, identity: str) -> None:
    buffer = io.BytesIO()
    confusion = np.stack(statistics.confusion, axis=1).astype(np.int64)
    arrays: dict[str, Any] = {"identity": identity, "confusion": confusion}
    arrays.update(statistics.columns())
    np.savez(buffer, **arrays)
    for file in _files(shards, identity):
        if isinstance(file, LocalPath):
            if file.path.parent.parent == cache_directory():
                make_room(len(buffer.getbuffer()))
            with contextlib.suppress(OSError):  # which writing reports
                file.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.write([buffer.getbuffer()])
            return
        except OutputError as error:
            _logger.info("%s", error)
    _logger.warning("the statistics could not be kept; they will be computed again")
