"""Verifying a shard set: files, structure, keys and replayed pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike

import numpy as np
from tqdm.auto import tqdm

from dr_plugins.errors import FormatError, ImageChangedError, ReinforcementError
from dr_plugins.images.sources import ImageSource
from dr_plugins.replay.replayer import Replayer, known_images
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.container import file_digest
from dr_plugins.shards.manifest import FileEntry
from dr_plugins.shards.reader import ShardSet
from dr_plugins.utils.quoting import quoted

__all__ = ["VerifyReport", "verify"]


@dataclass
class VerifyReport:
    """Outcome of a verification.

    Attributes:
        files: Number of files whose checksum and structure were checked.
        replayed: Number of views replayed and compared with their fingerprint.
        problems: One message per problem; empty if there are none.
    """

    files: int = 0
    replayed: int = 0
    problems: list[str] = field(default_factory=list)


def verify(
    directory: str | PathLike[str],
    source: ImageSource | None = None,
    *,
    replay: int = 0,
    progress: bool = False,
) -> VerifyReport:
    """Check a shard set against its manifest and, if given, against its images.

    Args:
        directory: The shard set, or its address; a remote one is fetched whole.
        source: The images that were reinforced; source and set must have the same keys.
        replay: Number of images, evenly spread, whose fingerprinted view is replayed and compared.
        progress: Show a progress bar.

    Returns:
        The number of checks, and all problems found.

    Raises:
        FormatError: The manifest is missing or damaged.
        ValueError: `replay` is used without images.

    Example:
        >>> verify("imagenet-plus").problems                                # doctest: +SKIP
        []
    """
    if replay and source is None:
        raise ValueError("replaying needs the images; pass them too")
    shards = ShardSet(directory)
    report = VerifyReport()
    _verify_files(shards, report, progress)
    if source is not None and not report.problems:
        try:
            source = known_images(source, shards)
            _verify_keys(shards, source, report)
            if replay and not report.problems:
                _verify_views(Replayer(source, shards), replay, report, progress)
        except ReinforcementError as error:
            report.problems.append(str(error))
    return report


def _verify_files(shards: ShardSet, report: VerifyReport, progress: bool) -> None:
    manifest = shards.manifest
    for number, entry in enumerate(
        tqdm((manifest.index, *manifest.shards), desc="files", unit=" files", disable=not progress)
    ):
        try:
            _verify_digest(shards, entry)
            if number == 0:
                _ = shards.keys, stored_policy(shards)
            else:
                shards.records(number - 1)
        except ReinforcementError as error:
            report.problems.append(str(error))
        report.files += 1
        shards.close()


def _verify_digest(shards: ShardSet, entry: FileEntry) -> None:
    path = shards.location / entry.file
    if file_digest(path) != entry.sha256:
        raise FormatError(
            f"{path} is damaged: its checksum differs from the manifest's. Copy it again."
        )


def _verify_keys(shards: ShardSet, source: ImageSource, report: VerifyReport) -> None:
    known, present = set(shards.keys), set(source.keys)
    for missing, message in (
        (present - known, "image(s) have no reinforcement"),
        (known - present, "reinforced image(s) are missing"),
    ):
        if missing:
            report.problems.append(f"{len(missing)} {message}, such as {quoted(min(missing))}")


def _verify_views(replayer: Replayer, count: int, report: VerifyReport, progress: bool) -> None:
    total = len(replayer.source)
    indices = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    for index in tqdm(indices.tolist(), desc="replay", unit=" images", disable=not progress):
        try:
            report.replayed += replayer.compare(index)
        except ImageChangedError as error:  # found by comparing
            report.replayed += 1
            report.problems.append(str(error))
        except ReinforcementError as error:
            report.problems.append(str(error))
    if not report.replayed and not report.problems:
        report.problems.append(
            f"none of {len(indices)} views could be compared: the set has no fingerprints, like "
            f"every imported set; verify it without replaying"
        )
