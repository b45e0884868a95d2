"""The worker side of generation: which views the teacher sees, in which batches."""

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
from dr_plugins.images import Picture, size_of
from dr_plugins.policy import Policy
from dr_plugins.replay import fingerprint
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.records import RecordLayout
from dr_plugins.sources import ImageSource

__all__ = ["ImageFact", "ViewBatch", "ViewBatches", "ViewPlan"]

_PARTNER_STREAM = 2
_PARTNERS = 8  # images that one image may be mixed with; each is decoded once for all its views


class ImageFact(NamedTuple):
    """What is stored of an image besides its records.

    Attributes:
        row: Row of the image.
        label: The dataset's class, -1 if unknown.
        size: (height, width) in pixels.
        fingerprint: Digest of the view of sample ``row % S``, None if that is in another batch.
    """

    row: int
    label: int
    size: tuple[int, int]
    fingerprint: bytes | None


class ViewBatch(NamedTuple):
    """Consecutive views of one shard.

    Attributes:
        shard: Number of the shard.
        first: Number of the first view within the shard, counted over images and samples.
        views: uint8 ``[B, 3, H, W]``.
        records: uint8 ``[B, record bytes]``, parameters filled in, answers still zero.
        facts: One entry for each image that has a view in the batch.
    """

    shard: int
    first: int
    views: torch.Tensor
    records: torch.Tensor
    facts: list[ImageFact]


@dataclass(frozen=True)
class ViewPlan:
    """How the views of all images are divided into shards and batches.

    Attributes:
        images: Number of images.
        samples: Views per image, S.
        shard_images: Images per shard; the last one may have fewer.
        batch_size: Views per batch; the last one of a shard may have fewer.
    """

    images: int
    samples: int
    shard_images: int
    batch_size: int

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard_images)

    def rows(self, shard: int) -> range:
        """Return the image rows of a shard."""
        first = shard * self.shard_images
        return range(first, min(first + self.shard_images, self.images))

    def batches(self, shard: int) -> int:
        """Return the number of batches of a shard; the same for all but the last one."""
        return -(-len(self.rows(shard)) * self.samples // self.batch_size)

    def batch(self, shard: int, number: int) -> range:
        """Return the view numbers of one batch of a shard."""
        first = number * self.batch_size
        count = len(self.rows(shard)) * self.samples
        return range(first, min(first + self.batch_size, count))


class ViewBatches(Dataset["ViewBatch | ReinforcementError"]):
    """Makes the batches of some shards, in order.

    An item is an error, not a batch, where an image cannot be used: so it reaches the main process
    as it is, without a worker's traceback around it.

    Args:
        source: The images.
        keys: Their keys, in row order.
        plan: Division into shards and batches.
        shards: Numbers of the shards to make, ascending.
        policy: What is done to each view.
        layout: Byte layout of a record.
        seed: Seed of all parameters.
    """

    def __init__(
        self,
        source: ImageSource,
        keys: KeyIndex,
        plan: ViewPlan,
        shards: Sequence[int],
        policy: Policy,
        layout: RecordLayout,
        seed: int,
    ) -> None:
        self._source, self._keys, self._plan = source, keys, plan
        self._policy, self._layout, self._seed = policy, layout, seed
        self._shards = list(shards)
        self._batches_each = plan.batches(0)
        self._positions = np.empty(len(keys), np.int64)
        self._positions[keys.rows(source.keys)] = np.arange(len(keys))
        self._cached_load: Callable[[int], tuple[Picture, int]] | None = None

    def __len__(self) -> int:
        if not self._shards:
            return 0
        # Only the very last shard of a set can have fewer batches.
        return (len(self._shards) - 1) * self._batches_each + self._plan.batches(self._shards[-1])

    def __getitem__(self, index: int) -> ViewBatch | ReinforcementError:
        """Return batch `index`, or the error that stands in its way."""
        position, number = divmod(index, self._batches_each)
        shard = self._shards[position]
        try:
            return self._make(shard, self._plan.batch(shard, number))
        except ReinforcementError as error:
            return error

    def _make(self, shard: int, numbers: range) -> ViewBatch:
        samples, first_row = self._plan.samples, self._plan.rows(shard).start
        height, width = self._policy.view_size
        views = torch.empty(len(numbers), 3, height, width, dtype=torch.uint8)
        records = np.zeros(len(numbers), self._layout.dtype)
        facts = []
        for position in range(numbers.start // samples, (numbers.stop - 1) // samples + 1):
            start = max(position * samples, numbers.start)
            stop = min((position + 1) * samples, numbers.stop)
            part = slice(start - numbers.start, stop - numbers.start)
            row, offset = first_row + position, start - position * samples
            facts.append(self._fill(row, offset, views[part], records[part]))
        as_bytes = torch.from_numpy(records.view(np.uint8).reshape(len(numbers), -1))
        return ViewBatch(shard, numbers.start, views, as_bytes, facts)

    def _fill(self, row: int, offset: int, views: torch.Tensor, records: np.ndarray) -> ImageFact:
        """Make the views of one image from sample `offset` on, into `views` and `records`."""
        image, label = self._load(row)
        size = size_of(image)
        key_hash = randomness.hash_key(self._keys.encoded(row))
        partners = self._partners(key_hash)
        digest = None
        for i in range(len(views)):
            sample = offset + i
            rng = randomness.image_generator(self._seed, key_hash, sample)
            try:
                self._policy.encode(self._policy.sample(rng, size, partners), records[i])
            except PolicyError as error:
                raise PolicyError(f"image {self._keys[row]!r}: {error}") from error
            # What the teacher sees is made from what is stored, not from what was drawn.
            (params,) = self._policy.decode(records[i : i + 1])
            partner = None if params.partner is None else self._load(params.partner)[0]
            views[i] = self._policy.apply(image, params, partner)
            if sample == row % self._plan.samples:
                digest = fingerprint(views[i])
        return ImageFact(row, label, size, digest)

    def _partners(self, key_hash: int) -> list[tuple[int, tuple[int, int]]]:
        if not self._policy.mixings:
            return []
        rng = randomness.image_generator(self._seed, key_hash, 0, _PARTNER_STREAM)
        rows = rng.integers(0, len(self._keys), _PARTNERS).tolist()
        images = [self._load(row)[0] for row in rows]
        return [(row, size_of(image)) for row, image in zip(rows, images, strict=True)]

    def _load(self, row: int) -> tuple[Picture, int]:
        if self._cached_load is None:  # made here because a cache cannot be sent to a worker
            self._cached_load = lru_cache(maxsize=_PARTNERS + 2)(self._load_uncached)
        return self._cached_load(row)

    def _load_uncached(self, row: int) -> tuple[Picture, int]:
        source = self._source
        load = source.load_pixels if self._policy.backend == "tensor" else source.load
        return load(int(self._positions[row]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached_load": None}
