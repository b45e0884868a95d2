"""Importing what apple/ml-dr published: archives of pickles, read without trusting them."""

from dr_plugins.mldr.alignment import Agreement, ClassAgreement
from dr_plugins.mldr.errors import AlignmentError, ArchiveError, DownloadError, UnsafePickleError
from dr_plugins.mldr.importer import ImportReport, ImportSettings, import_archives
from dr_plugins.mldr.normalized import normalization, replay_normalized
from dr_plugins.mldr.order import ImageOrder

__all__ = [
    "Agreement",
    "AlignmentError",
    "ArchiveError",
    "ClassAgreement",
    "DownloadError",
    "ImageOrder",
    "ImportReport",
    "ImportSettings",
    "UnsafePickleError",
    "import_archives",
    "normalization",
    "replay_normalized",
]
