"""Noticing that a shard set is replaced while it is read."""

from __future__ import annotations

from dr_plugins.errors import FormatError
from dr_plugins.shards.container import file_digest
from dr_plugins.shards.location import Location
from dr_plugins.shards.manifest import Manifest
from dr_plugins.utils.files import MANIFEST_NAME


class Watch:
    """Watches the manifest and the index of a shard set, at microseconds for each look.

    Reading the map of a file that was shortened ends the process (SIGBUS). Copying one set over
    another usually begins with these two files.

    Args:
        location: The shard set.
        manifest: What was read there.
    """

    def __init__(self, location: Location, manifest: Manifest) -> None:
        self._location, self._manifest = location, manifest
        self._files = [location / name for name in (MANIFEST_NAME, manifest.index.file)]
        self._stamps = self._look()

    def check(self) -> None:
        """Check that the directory still holds the set.

        Raises:
            FormatError: The set was deleted or replaced.
        """
        stamps = self._look()
        if stamps == self._stamps:
            return
        if not self._is_same():
            raise FormatError(
                f"{self._location} was deleted or replaced by another shard set while in use; "
                f"start again"
            )
        self._stamps = stamps  # touched, or copied over itself

    def _look(self) -> list[object]:
        return [file.stamp() for file in self._files]

    def _is_same(self) -> bool:
        try:
            is_same = Manifest.load(self._location) == self._manifest
            return is_same and file_digest(self._files[1]) == self._manifest.index.sha256
        except FormatError:
            return False
