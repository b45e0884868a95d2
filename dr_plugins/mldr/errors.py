"""Errors of the importer of ml-dr's archives."""

from __future__ import annotations

from dr_plugins.errors import DatasetMismatchError, FormatError, ReinforcementError


class ArchiveError(FormatError):
    """An archive, or one of its members, is damaged, unsafe, or not what ml-dr writes."""


class UnsafePickleError(ArchiveError):
    """A pickle contains something other than plain containers, numbers and strings."""


class AlignmentError(DatasetMismatchError):
    """The archive's image numbers do not match these images in this order."""


class DownloadError(ReinforcementError):
    """A published archive cannot be downloaded."""
