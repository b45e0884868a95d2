"""Verifying a shard set: files, structure, keys and replayed pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike

import numpy as np
from tqdm.auto import tqdm

from dr_plugins.errors import ImageChangedError, ReinforcementError
from dr_plugins.images.sources import ImageSource
from dr_plugins.replay.replayer import Replayer, known_images
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.verify_files import VerifiedFiles, check_files
from dr_plugins.utils.quoting import quoted, respelt


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
    workers: int = 0,
    records: bool = False,
    resume: str | PathLike[str] | None = None,
    progress: bool = False,
) -> VerifyReport:
    """Check a shard set against its manifest and, if given, against its images.

    Args:
        directory: The shard set, or its address; a remote one is fetched whole.
        source: The images that were reinforced; source and set must have the same keys.
        replay: Number of images, evenly spread, whose fingerprinted view is replayed and compared.
        workers: Processes that check files; 0 uses this one.
        records: Also check each record against its own checksum, which covers its image's key. The
            files' checksums already exclude damage; this finds what a faulty writer did.
        resume: File that remembers which files are intact, so that a stopped run continues. A file
            is checked again if its size or modification time has changed, or what its server says
            about its version.
        progress: Show a progress bar.

    Returns:
        The number of checks, and all problems found.

    Raises:
        FormatError: The manifest is missing or damaged, or `resume` is another kind of file.
        OutputError: `resume` cannot be written.
        WorkerError: A worker died.
        ValueError: `replay` is used without images.

    Example:
        >>> verify("imagenet-plus").problems                                # doctest: +SKIP
        []
    """
    if replay and source is None:
        raise ValueError("replaying needs the images; pass them too")
    shards = ShardSet(directory)
    report = VerifyReport()
    _verify_files(shards, report, workers, records, resume, progress)
    if source is not None and not report.problems:
        try:
            source = known_images(source, shards)
            _verify_keys(shards, source, report)
            if replay and not report.problems:
                _verify_views(Replayer(source, shards), replay, report, progress)
        except ReinforcementError as error:
            report.problems.append(str(error))
    return report


def _verify_files(
    shards: ShardSet,
    report: VerifyReport,
    workers: int,
    records: bool,
    resume: str | PathLike[str] | None,
    progress: bool,
) -> None:
    verified = VerifiedFiles(resume, shards, records=records)
    checks = check_files(shards, workers=workers, records=records, verified=verified)
    total = 1 + len(shards.manifest.shards)
    for check in tqdm(checks, desc="files", unit=" files", total=total, disable=not progress):
        report.files += 1
        if check.problem is not None:
            report.problems.append(check.problem)


def _verify_keys(shards: ShardSet, source: ImageSource, report: VerifyReport) -> None:
    known, present = set(shards.keys), set(source.keys)
    for missing, others, message in (
        (present - known, known, "image(s) have no reinforcement"),
        (known - present, present, "reinforced image(s) are missing"),
    ):
        if missing:
            example = min(missing)
            alike = [form for form in respelt(example) if form in others]
            report.problems.append(
                f"{len(missing)} {message}, such as {quoted(example)}"
                + (f"; {quoted(alike[0])} is in another Unicode normal form" if alike else "")
            )


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
