"""The manifest: everything about a shard set except its records."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from dr_plugins.errors import FormatError, VersionError
from dr_plugins.records import BASIC_ANSWER, RecordLayout, target_fields
from dr_plugins.shards.address import Place, located
from dr_plugins.shards.location import Location
from dr_plugins.utils.files import MANIFEST_NAME

FORMAT_VERSION = 1
_FORMAT = "dr-plugins"
_LIBRARIES = ("dr-plugins", "torch", "torchvision", "numpy", "pillow")
MAX_SAMPLES = 1 << 20  # choosing a sample takes memory proportional to this
_MAX_IMAGES = (1 << 32) - 1  # a record stores its partner's row in four bytes
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """One file of a shard set.

    Attributes:
        file: Name inside the set's directory.
        sha256: Checksum of the whole file, hexadecimal.
        images: Number of images in it.
    """

    file: str
    sha256: str
    images: int


@dataclass(frozen=True)
class Manifest:
    """The description of a shard set.

    Attributes:
        settings: Everything that determines the content: ``policy`` (with its ``backend``),
            ``samples``, ``topk``, ``num_classes``, ``class_names`` (or None), ``probs_dtype``,
            ``seed``, ``teachers``, ``temperature`` and so on.
        layout: Byte layout of a record.
        index: The key index.
        shards: The shards, in row order.
        versions: Libraries (and Python) that made the set.
    """

    settings: dict[str, Any]
    layout: RecordLayout
    index: FileEntry
    shards: tuple[FileEntry, ...]
    versions: dict[str, str]

    @property
    def samples(self) -> int:
        """Reinforcements per image, S."""
        return int(self.settings["samples"])

    @property
    def topk(self) -> int:
        """Classes stored per reinforcement, k."""
        return int(self.settings["topk"])

    @property
    def num_classes(self) -> int:
        """Number of the teacher's classes."""
        return int(self.settings["num_classes"])

    @property
    def left_out(self) -> list[str]:
        """Keys of the images that were left out when the set was made."""
        return list(self.settings.get("left_out", ()))

    @property
    def temperature(self) -> float:
        """Divisor of the teacher's logits before its softmax."""
        return float(self.settings.get("temperature", 1.0))

    @property
    def answer(self) -> tuple[str, ...]:
        """What records store of the teacher's answer: names of `ANSWER_FIELDS`."""
        return tuple(self.settings.get("answer", BASIC_ANSWER))

    @property
    def set_id(self) -> str:
        """Digest of the settings; stored in every shard of the set."""
        return settings_digest(self.settings)

    def save(self, directory: Place) -> None:
        """Write ``manifest.json``, atomically: from then on the set is complete."""
        data = {
            "format": _FORMAT,
            "version": FORMAT_VERSION,
            "set_id": self.set_id,
            "settings": self.settings,
            "record": self.layout.to_json(),
            "index": vars(self.index),
            "shards": [vars(entry) for entry in self.shards],
            "versions": self.versions,
        }
        text = json.dumps(data, indent=1, ensure_ascii=False)
        (located(directory) / MANIFEST_NAME).write([text.encode()])

    @classmethod
    def load(cls, directory: Place) -> Manifest:
        """Read ``manifest.json``.

        Raises:
            FormatError: It is missing (the set may be unfinished) or damaged.
            VersionError: It was written by a newer format version.
        """
        directory = located(directory)
        path = directory / MANIFEST_NAME
        data = _parse(directory, path)
        if data.get("format") != _FORMAT or not _is_count(data.get("version"), 1):
            raise FormatError(f"{path} is not the manifest of a shard set")
        if data["version"] > FORMAT_VERSION:
            raise VersionError(
                f"{path} has format version {data['version']}, this dr-plugins reads up to "
                f"{FORMAT_VERSION}. Upgrade dr-plugins."
            )
        try:
            manifest = cls(
                settings=dict(data["settings"]),
                layout=RecordLayout.from_json(data["record"]),
                index=_entry(data["index"]),
                shards=tuple(_entry(entry) for entry in data["shards"]),
                versions=dict(data["versions"]),
            )
            consistent = manifest.set_id == data["set_id"] and _is_consistent(manifest)
        except VersionError as error:
            raise VersionError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, RecursionError, FormatError) as error:
            raise FormatError(f"{path} is damaged: {error!r}. Copy it again.") from error
        if not consistent:
            raise FormatError(f"{path} is damaged: its parts contradict each other. Copy it again.")
        return manifest


def settings_digest(settings: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that identify a set's settings."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decode, augment and predict."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def _parse(directory: Location, path: Location) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FormatError(
            f"{path} does not exist: {directory} is not a shard set, or its generation has not "
            f"finished (run the same `dr-plugins reinforce` command again to resume)."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read: {error}. Copy it again.") from error
    if not isinstance(data, dict):
        raise FormatError(f"{path} is not the manifest of a shard set")
    return data


def _entry(data: dict[str, Any]) -> FileEntry:
    entry = FileEntry(data["file"], data["sha256"], data["images"])
    # A manifest must not reach outside its directory, and the cache names files by checksum.
    is_inside = _FILE_NAME.fullmatch(entry.file) and _SHA256.fullmatch(entry.sha256)
    if not is_inside or not _is_count(entry.images, 0, _MAX_IMAGES):
        raise ValueError(f"file entry {data}")
    return entry


def _is_consistent(manifest: Manifest) -> bool:
    settings = manifest.settings
    if not all(_is_count(settings[name], 1) for name in ("samples", "topk", "num_classes")):
        return False
    if manifest.samples > MAX_SAMPLES:
        return False
    if not isinstance(settings["policy"], dict):
        return False
    if not _describes(manifest):
        return False
    left_out = settings.get("left_out", [])
    if not isinstance(left_out, list) or not all(isinstance(key, str) for key in left_out):
        return False
    answers = target_fields(
        manifest.topk, manifest.num_classes, settings["probs_dtype"], manifest.answer
    )
    return (
        manifest.layout.answers == answers
        and sum(entry.images for entry in manifest.shards) == manifest.index.images
    )


def _describes(manifest: Manifest) -> bool:
    """Whether the entries that are only shown or compared have the documented types."""
    settings, versions = manifest.settings, manifest.versions
    origin = settings.get("origin")
    return (
        _are_texts(settings.get("answer", []))
        and (settings["class_names"] is None or _are_texts(settings["class_names"]))
        and _are_texts(settings.get("teachers") or [])
        and type(settings.get("temperature", 1.0)) in (int, float)
        and 0 < settings.get("temperature", 1.0) < float("inf")
        and _are_texts([*versions, *versions.values()])
        and (origin is None or _are_texts([origin["format"], *_names(origin["archives"])]))
        and ("history" not in settings or _is_history(settings["history"]))
    )


def _is_history(history: dict[str, Any]) -> bool:
    return _are_texts([history["operation"]]) and all(
        _are_texts([one["set_id"]])
        and all(_is_count(one[name], 1) for name in ("images", "samples", "topk"))
        and ("history" not in one or _is_history(one["history"]))
        for one in history["sets"]
    )


def _names(archives: list[dict[str, Any]]) -> list[Any]:
    return [archive["name"] for archive in archives]


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _is_count(value: Any, least: int, most: int | None = None) -> bool:
    return type(value) is int and least <= value and (most is None or value <= most)
