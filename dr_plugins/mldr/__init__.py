"""Import the archives that apple/ml-dr published: pickles, read without executing them."""

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
