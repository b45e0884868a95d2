"""What users write to name a shard set, as a location."""

from __future__ import annotations

import os
from pathlib import Path

from dr_plugins.shards.location import LocalPath, Location
from dr_plugins.shards.remote import RemotePath

Place = str | os.PathLike[str] | Location


def located(place: Place) -> Location:
    """Return the location that a user names: a local path, or an address such as ``s3://...``."""
    if isinstance(place, Location):
        return place
    text = os.fspath(place)
    if "://" not in text:
        return LocalPath(Path(text))
    return LocalPath(Path(text[7:])) if text.startswith("file://") else RemotePath(text)
