"""The workers' side of generation: the views that the teacher sees, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from dr_plugins import randomness
from dr_plugins.errors import PolicyError, ReinforcementError
from dr_plugins.images.decoding import Picture, size_of
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.records import RecordLayout
from dr_plugins.replay.deferred import CroppedView, DeferredViews, join
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.shard import fingerprinted_sample
from dr_plugins.utils.workers import report_lost_batches

_PARTNER_STREAM = 2
_PARTNERS = 8  # partners per image; each is decoded once for all of the image's views


class ImagePart(NamedTuple):
    """The views of one image in one batch.

    Attributes:
        row: Row of the image.
        label: The dataset's class, -1 if unknown.
        size: (height, width) in pixels.
        start: Position of its first view in the batch.
        stop: Position after its last one.
        fingerprinted: Position of the view of sample ``row % S``; None if it is in another batch.
        pictures: uint8 ``[height, width, 3]`` by row, of the image and its partners; None if the
            previous batch already had them, or if they are not used.
    """

    row: int
    label: int
    size: tuple[int, int]
    start: int
    stop: int
    fingerprinted: int | None
    pictures: dict[int, torch.Tensor] | None


class ViewBatch(NamedTuple):
    """Consecutive views of one shard.

    Attributes:
        shard: Number of the shard.
        first: Number of the first view within the shard, counted over images and samples.
        records: uint8 ``[B, record bytes]``, parameters filled in, answers still zero.
        parts: One entry for each image that has a view in the batch.
        views: uint8 ``[B, 3, H, W]``, or deferred views that the teacher's device finishes; None if
            the device makes them from the parts' pictures.
    """

    shard: int
    first: int
    records: torch.Tensor
    parts: list[ImagePart]
    views: torch.Tensor | DeferredViews | None


@dataclass(frozen=True)
class ViewPlan:
    """Division of all images' views into shards and batches.

    Attributes:
        images: Number of images.
        samples: Views per image, S.
        shard_images: Images per shard; the last one may have fewer.
        batch_size: Views per batch; the last one of a shard may have fewer.
        first_sample: Number of the first view of each image, which determines its parameters.
    """

    images: int
    samples: int
    shard_images: int
    batch_size: int
    first_sample: int = 0

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard_images)

    def rows(self, shard: int) -> range:
        """Return the image rows of a shard."""
        first = shard * self.shard_images
        return range(first, min(first + self.shard_images, self.images))

    def place(self, shard: int) -> tuple[tuple[int, int], int]:
        """Return the shape of a shard, (images, S), and the row of its first image."""
        rows = self.rows(shard)
        return (len(rows), self.samples), rows.start

    def batches(self, shard: int) -> int:
        """Return the number of batches of a shard; all but the last shard have the same."""
        return -(-len(self.rows(shard)) * self.samples // self.batch_size)

    def batch(self, shard: int, number: int) -> range:
        """Return the view numbers of one batch of a shard."""
        first = number * self.batch_size
        count = len(self.rows(shard)) * self.samples
        return range(first, min(first + self.batch_size, count))


class FailedBatch(NamedTuple):
    """Takes the place of a batch if an image cannot be used.

    As an item, the error reaches the main process without a worker's traceback around it.

    Attributes:
        shard: Number of the shard.
        error: Why there is no batch.
    """

    shard: int
    error: ReinforcementError


class ViewBatches(Dataset["ViewBatch | FailedBatch"]):
    """Makes batches, by (number of the shard, number of the batch in it).

    Args:
        source: The images.
        keys: Their keys, in row order.
        plan: Division into shards and batches.
        policy: Augmentation of the views.
        layout: Byte layout of a record.
        seed: Seed of all parameters.
        whole: Finish the views in the workers. If false, the teacher's device does what it can
            compute exactly: everything after decoding, or, if Pillow's method of resampling is not
            known, everything after cropping and resizing.
    """

    def __init__(
        self,
        source: ImageSource,
        keys: KeyIndex,
        plan: ViewPlan,
        policy: Policy,
        layout: RecordLayout,
        seed: int,
        whole: bool = True,
    ) -> None:
        self._source, self._keys, self._plan = source, keys, plan
        self._policy, self._layout, self._seed = policy, layout, seed
        self._whole = whole
        self._sends_pictures = not whole and policy.has_batches
        self._positions = np.empty(len(keys), np.int64)
        self._positions[keys.rows(source.keys)] = np.arange(len(keys))
        self._cached_load: Callable[[int], tuple[Picture, int]] | None = None

    def __getitem__(self, index: tuple[int, int]) -> ViewBatch | FailedBatch:
        """Return a batch, or the error that prevents it."""
        report_lost_batches()
        shard, number = index
        try:
            return self._make(shard, self._plan.batch(shard, number))
        except ReinforcementError as error:
            return FailedBatch(shard, error)

    @property
    def batch_bytes(self) -> int:
        """Bytes of a batch of finished views; 0 if it consists of pictures of unknown sizes."""
        if self._sends_pictures:
            return 0
        height, width = self._policy.view_size
        return self._plan.batch_size * (3 * height * width + self._layout.itemsize)

    def _make(self, shard: int, numbers: range) -> ViewBatch:
        samples, first_row = self._plan.samples, self._plan.rows(shard).start
        records = np.zeros(len(numbers), self._layout.dtype)
        parts: list[ImagePart] = []
        views: list[Any] = []
        for position in range(numbers.start // samples, (numbers.stop - 1) // samples + 1):
            first = max(position * samples, numbers.start)
            stop = min((position + 1) * samples, numbers.stop)
            part = records[first - numbers.start : stop - numbers.start]
            row, offset = first_row + position, first - position * samples
            self._sample(row, offset, part)
            # Views are made from the stored parameters, not from the drawn ones.
            params = self._policy.decode(part)
            parts.append(self._image_part(row, offset, first - numbers.start, params))
            if not self._sends_pictures:
                views += [self._view(row, one) for one in params]
        as_bytes = torch.from_numpy(records.view(np.uint8).reshape(len(numbers), -1))
        return ViewBatch(shard, numbers.start, as_bytes, parts, self._join(views))

    def _sample(self, row: int, offset: int, records: np.ndarray) -> None:
        """Draw the parameters of an image's views into `records`, starting at sample `offset`."""
        key_hash = randomness.hash_key(self._keys.encoded(row))
        size = size_of(self._load(row)[0])
        partners = [(other, size_of(self._load(other)[0])) for other in self._partners(row)]
        for sample, record in enumerate(records, self._plan.first_sample + offset):
            rng = randomness.image_generator(self._seed, key_hash, sample)
            try:
                self._policy.encode(self._policy.sample(rng, size, partners), record)
            except PolicyError as error:
                raise PolicyError(f"image {self._keys[row]!r}: {error}") from error

    def _image_part(
        self, row: int, offset: int, start: int, params: Sequence[AugmentParams]
    ) -> ImagePart:
        image, label = self._load(row)
        stop = start + len(params)
        fingerprinted = start - offset + fingerprinted_sample(row, self._plan.samples)
        return ImagePart(
            row,
            label,
            size_of(image),
            start,
            stop,
            fingerprinted if start <= fingerprinted < stop else None,
            self._pictures(row, params) if self._sends_pictures and offset == 0 else None,
        )

    def _pictures(self, row: int, params: Sequence[AugmentParams]) -> dict[int, torch.Tensor]:
        if len(params) == self._plan.samples:
            others = {one.partner for one in params if one.partner is not None}
        else:  # later batches may mix in any of them
            others = set(self._partners(row))
        return {r: torch.from_numpy(self._load(r)[0]) for r in sorted({row, *others})}

    def _view(self, row: int, params: AugmentParams) -> torch.Tensor | CroppedView:
        image, policy = self._load(row)[0], self._policy
        other = None if params.partner is None else self._load(params.partner)[0]
        if self._whole:
            return policy.apply(image, params, other)
        partner = None if other is None else policy.crop(other, params.partner_view)
        return CroppedView(policy, policy.crop(image, params.view), params, partner)

    def _join(self, views: list[Any]) -> torch.Tensor | DeferredViews | None:
        if self._sends_pictures:
            return None
        return torch.stack(views) if self._whole else join(views)

    def _partners(self, row: int) -> list[int]:
        """Return the rows of an image's possible partners."""
        if not self._policy.mixings:
            return []
        key_hash = randomness.hash_key(self._keys.encoded(row))
        rng = randomness.image_generator(self._seed, key_hash, 0, _PARTNER_STREAM)
        return rng.integers(0, len(self._keys), _PARTNERS).tolist()

    def _load(self, row: int) -> tuple[Picture, int]:
        if self._cached_load is None:  # created lazily because a cache cannot be pickled
            self._cached_load = lru_cache(maxsize=_PARTNERS + 2)(self._load_uncached)
        return self._cached_load(row)

    def _load_uncached(self, row: int) -> tuple[Picture, int]:
        as_pixels = self._sends_pictures or self._policy.takes_pixels
        return self._source.load_picture(int(self._positions[row]), as_pixels=as_pixels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached_load": None}
