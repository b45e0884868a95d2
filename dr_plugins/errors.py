"""Errors that name the file or key, what was found, what was expected and what to do about it.

Every class takes a single message, which lets DataLoader workers pass it to the main process.
"""

from __future__ import annotations

__all__ = [
    "BackboneError",
    "CheckpointError",
    "DatasetMismatchError",
    "DeviceMismatchError",
    "EvaluationError",
    "FormatError",
    "ImageChangedError",
    "ImageReadError",
    "LockedError",
    "LossError",
    "OutputError",
    "PolicyError",
    "ReinforcementError",
    "SettingsMismatchError",
    "TeacherError",
    "UnknownImageError",
    "VersionError",
    "WorkerError",
]


class ReinforcementError(Exception):
    """Base class of all errors raised by this package."""


class FormatError(ReinforcementError):
    """A manifest, index, shard or record is missing, truncated or damaged."""


class VersionError(FormatError):
    """A shard set was written by a newer version of the format."""


class UnknownImageError(ReinforcementError):
    """An image key has no reinforcement in the shard set."""


class ImageReadError(ReinforcementError):
    """An image cannot be opened or decoded."""


class ImageChangedError(ReinforcementError):
    """An image, or how it is decoded and augmented, differs from what the teacher saw."""


class DatasetMismatchError(ReinforcementError):
    """A dataset and a shard set (or a teacher) do not describe the same classes or images."""


class DeviceMismatchError(ReinforcementError):
    """A device does not compute the pixels that the CPU computes."""


class EvaluationError(ReinforcementError):
    """A model or a set of images is not what an evaluation needs."""


class PolicyError(ReinforcementError):
    """An augmentation policy is malformed or cannot be stored."""


class CheckpointError(ReinforcementError):
    """A checkpoint cannot be read, or cannot be converted without changing what it computes."""


class BackboneError(ReinforcementError):
    """A host's backbone cannot be built as its configuration asks."""


class LossError(ReinforcementError):
    """A loss specification gives no working loss."""


class TeacherError(ReinforcementError):
    """A teacher cannot be built from its specification, or does not work."""


class SettingsMismatchError(ReinforcementError):
    """Shard sets do not fit each other, an option, or what an output directory already holds."""


class OutputError(ReinforcementError):
    """A file of the shard set cannot be written."""


class WorkerError(ReinforcementError):
    """A worker process died, or cannot pass a batch to the main process."""


class LockedError(OutputError):
    """Another generator is writing to the same output directory."""
