"""Replaying stored views, and detecting images that differ from those that the teacher saw."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dr_plugins.errors import (
    DatasetMismatchError,
    FormatError,
    ImageChangedError,
    UnknownImageError,
)
from dr_plugins.images.classes import compare_class_names
from dr_plugins.images.decoding import Picture, size_of
from dr_plugins.images.keys import KEY_RULES, ruled_keys
from dr_plugins.images.skipping import SkipList, skipped_keys
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import AugmentParams
from dr_plugins.replay.deferred import CroppedView
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.reader import ShardSet
from dr_plugins.shards.shard import FINGERPRINT_BYTES
from dr_plugins.utils.quoting import quoted

_NAMES = 64  # that are looked up to find a rule
_logger = logging.getLogger(__name__)


def fingerprint(view: torch.Tensor) -> bytes:
    """Return the 8-byte BLAKE2b digest of a view, uint8 ``[3, H, W]``, taken in CHW order."""
    return hashlib.blake2b(view.contiguous().numpy().data, digest_size=FINGERPRINT_BYTES).digest()


def known_images(source: ImageSource, shards: ShardSet, skip: SkipList = ()) -> ImageSource:
    """Return the source under the set's keys, without the images that were left out of the set.

    Copies of a dataset name its files differently. If none of some names is known, and a rule of
    `KEY_RULES` makes one a key of the set, the rule is applied to all.

    Args:
        source: The images.
        shards: The shard set.
        skip: More images to leave out.

    Raises:
        DatasetMismatchError: The rule does not apply to all names, or `skip` lists a key that
            neither the source nor the set knows.
    """
    source = named_as(source, shards)
    left_out = shards.manifest.left_out
    known = source.without(left_out)
    _log_left_out(source, known, "in the shard set")
    if not skip:
        return known
    listed = skipped_keys(skip, known.keys, (shards.keys, set(left_out)))
    kept = known.without(listed)
    _log_left_out(known, kept, "the skip list says")
    if not len(kept):
        raise DatasetMismatchError("the skip list leaves out all images; leave out fewer")
    return kept


def _log_left_out(before: ImageSource, after: ImageSource, reason: str) -> None:
    count, total = len(before) - len(after), len(before)
    if count:
        _logger.warning("leaving out %d of %d images, as %s", count, total, reason)


def named_as(source: ImageSource, shards: ShardSet) -> ImageSource:
    """Return the source under the set's keys; see `known_images`."""
    if not len(source):
        return source
    left_out, step = shards.manifest.left_out, -(-len(source) // _NAMES)
    for rule, key_of in KEY_RULES.items():
        for name in source.keys[::step]:  # the set need not know all of them
            with contextlib.suppress(ValueError):
                key = key_of(name)
                if key in shards.keys or key in left_out:
                    if key == name:
                        return source
                    _logger.info("%r is %r in the shard set: key rule %r", name, key, rule)
                    return ImageSource(source.dataset, ruled_keys(source.keys, rule))
    return source


class Replayer:
    """Matches images and reinforcements by key and computes the stored views.

    Args:
        source: The images; each must be in the shard set or in its list of left-out images.
        shards: The reinforcements; they may cover more images.
        skip: Images to leave out: a file with one key a line, or the keys. They are still mixed
            into the views of others.

    Attributes:
        source: The images that are in the shard set, without those that are skipped.
        rows: int64 ``[len(source)]``, the shard set's row of each image.

    Raises:
        UnknownImageError: An image is not in the shard set; or the set mixes images and the source
            misses one.
        DatasetMismatchError: The images have other classes than the shard set, or a key to skip is
            unknown.

    Example:
        >>> replayer = Replayer(source, ShardSet("imagenet-plus"))          # doctest: +SKIP
        >>> record = replayer.shards.read(replayer.rows[:1], np.array([17]))  # doctest: +SKIP
        >>> view, label = replayer.view(0, replayer.policy.decode(record)[0])  # doctest: +SKIP
    """

    def __init__(self, source: ImageSource, shards: ShardSet, skip: SkipList = ()) -> None:
        self.source = known_images(source, shards, skip)
        self.shards = shards
        self.policy = stored_policy(shards)
        self.rows = shards.keys.rows(self.source.keys)
        # Any image of the set may be mixed into a view, also those that are skipped.
        self._partners = Replayer(source, shards) if skip and self.policy.mixings else None
        self._positions = self._invert() if self.policy.mixings and self._partners is None else None
        stored = shards.manifest.settings["class_names"]
        names = self.source.class_names
        if fault := compare_class_names(names, stored, "the dataset", "the shard set"):
            raise DatasetMismatchError(fault)

    def load(self, index: int, *, as_pixels: bool = False) -> tuple[Picture, int]:
        """Load an image and check that it is the one that was reinforced.

        Args:
            index: Position in the source.
            as_pixels: Return an array, not a PIL image.

        Returns:
            RGB image and label; see `ImageSource.load_picture`.

        Raises:
            ImageReadError: The image cannot be read.
            ImageChangedError: Its size differs from the reinforced image's.
            DatasetMismatchError: Its label differs from the reinforced image's.
        """
        image, label = self.source.load_picture(index, as_pixels=as_pixels)
        info, size = self.shards.image(int(self.rows[index])), size_of(image)
        if info.size != size and any(info.size):
            raise ImageChangedError(
                f"image {self.source.keys[index]!r} is {size[0]}x{size[1]} pixels, but "
                f"{info.size[0]}x{info.size[1]} when it was reinforced. Restore the original "
                f"images, or reinforce these."
            )
        if label >= self.shards.manifest.num_classes:
            raise DatasetMismatchError(
                f"image {self.source.keys[index]!r} has label {label}, but the shard set has "
                f"{self.shards.manifest.num_classes} classes. Use the dataset that was reinforced."
            )
        if label != info.label and min(label, info.label) >= 0:
            raise DatasetMismatchError(
                f"image {self.source.keys[index]!r} has label {label}, but {info.label} when it "
                f"was reinforced: the classes are numbered differently. Use the same class order."
            )
        return image, label

    def view(self, index: int, params: AugmentParams) -> tuple[torch.Tensor, int]:
        """Compute a stored view.

        Args:
            index: Position in the source.
            params: From one of the image's records.

        Returns:
            uint8 ``[3, H, W]``, and the image's label, -1 if another image is mixed in.

        Raises:
            ImageReadError: The image or its partner cannot be read.
            ImageChangedError: The image or its partner has changed.
        """
        image, partner, label = self._pictures(index, params)
        return self.policy.apply(image, params, partner), label

    def cropped_view(self, index: int, params: AugmentParams) -> tuple[CroppedView, int]:
        """Compute the part of a stored view that needs whole images; see `view`."""
        image, other, label = self._pictures(index, params)
        view = self.policy.crop(image, params.view)
        partner = None if other is None else self.policy.crop(other, params.partner_view)
        return CroppedView(self.policy, view, params, partner), label

    def _pictures(self, index: int, params: AugmentParams) -> tuple[Picture, Picture | None, int]:
        """Load a view's image, its partner if there is one, and the label."""
        image, label = self._load_for(index, params.view)
        if params.partner is None:
            return image, None, label
        if params.partner >= len(self.shards):
            raise FormatError(
                f"a record of image {self.source.keys[index]!r} mixes in row {params.partner}, but "
                f"the shard set has {len(self.shards)} images: it was made by a faulty writer"
            )
        others = self._partners or self
        assert others._positions is not None
        position = int(others._positions[params.partner])
        partner, _ = others._load_for(position, params.partner_view)
        return image, partner, -1

    def _load_for(self, index: int, view: Sequence[Any]) -> tuple[Picture, int]:
        """Load an image and check that the view's crop fits it."""
        image, label = self.load(index, as_pixels=self.policy.takes_pixels)
        try:
            self.policy.check_fit(view, size_of(image))
        except ValueError as error:  # possible if the set stores no sizes
            raise ImageChangedError(
                f"image {self.source.keys[index]!r} is not the one that was reinforced: {error} "
                f"Restore the original images, or reinforce these."
            ) from error
        return image, label

    def is_fingerprinted(self, index: int, sample: int) -> bool:
        """Whether `sample` is the image's reinforcement with a fingerprint."""
        return sample == self.shards.image(int(self.rows[index])).fingerprinted

    def compare(self, index: int) -> bool:
        """Replay the image's fingerprinted view and check it.

        Returns:
            Whether the image has a fingerprint.

        Raises:
            ImageReadError: The image or its partner cannot be read.
            ImageChangedError: The image or its partner has changed.
            FormatError: The record is damaged.
        """
        row = int(self.rows[index])
        info = self.shards.image(row)
        record = self.shards.read(np.array([row]), np.array([info.fingerprinted]))
        (params,) = self.policy.decode(record)
        self.check(index, self.view(index, params)[0])
        return info.fingerprint is not None

    def check(self, index: int, view: torch.Tensor) -> None:
        """Compare the view of the image's fingerprinted sample with what the teacher saw.

        Raises:
            ImageChangedError: They differ.
        """
        stored = self.shards.image(int(self.rows[index])).fingerprint
        if stored is not None and stored != fingerprint(view):
            versions = ", ".join(map(" ".join, self.shards.manifest.versions.items()))
            raise ImageChangedError(
                f"image {self.source.keys[index]!r} does not replay to the view that its teacher "
                f"saw: it was re-encoded or changed, or a library decodes or resizes it "
                f"differently (made with {versions}). Restore the images or "
                f"the versions; `dr-plugins verify --replay` shows how many images differ."
            )

    def _invert(self) -> np.ndarray:
        """Position of each row's image; mixing may need any of them."""
        positions = np.full(len(self.shards), -1, np.int32)
        positions[self.rows] = np.arange(len(self.rows))
        missing = np.flatnonzero(positions < 0)
        if len(missing):
            raise UnknownImageError(
                f"the dataset misses {len(missing)} of the set's {len(positions)} images, such as "
                f"{quoted(self.shards.keys[int(missing[0])])}. "
                f"A set that mixes images needs all of them."
            )
        return positions
