"""Batches of each process and iteration, as a pure function of seed and iteration."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from d2_ext.errors import ConfigError


class EpochBatches(Sampler[list[int]]):
    """The batches of one process in one epoch, from any iteration on.

    Each epoch permutes the images, and each batch is split among the processes, so no image is seen
    twice in an epoch. Incomplete batches are dropped.

    Args:
        size: Number of images.
        total_batch_size: Batch size across all processes.
        seed: Of the permutations.
        rank: Rank of this process.
        world_size: Number of processes.

    Raises:
        ConfigError: The batch is larger than the dataset, or cannot be split evenly.

    Example:
        >>> batches = EpochBatches(10, 4, rank=1, world_size=2)
        >>> batches.iterations_per_epoch, batches.locate(5)
        (2, (2, 1))
    """

    def __init__(
        self, size: int, total_batch_size: int, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if total_batch_size < 1 or total_batch_size % world_size:
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH (lazy: total_batch_size) is {total_batch_size}; expected a "
                f"multiple of the number of processes, {world_size}"
            )
        if total_batch_size > size:
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH (lazy: total_batch_size) is {total_batch_size}, more than "
                f"the {size} images; set it to at most that"
            )
        self.size, self.total_batch_size, self.seed = size, total_batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.first = 0, 0

    @property
    def iterations_per_epoch(self) -> int:
        """Number of complete batches in an epoch."""
        return self.size // self.total_batch_size

    def locate(self, iteration: int) -> tuple[int, int]:
        """Return the epoch of an iteration, and its number within the epoch, both from 0."""
        return divmod(iteration, self.iterations_per_epoch)

    def go_to(self, iteration: int) -> int:
        """Start at this iteration, and return its epoch."""
        self.epoch, self.first = self.locate(iteration)
        return self.epoch

    def __len__(self) -> int:
        return self.iterations_per_epoch - self.first

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        for number in range(self.first, self.iterations_per_epoch):
            start = number * self.total_batch_size
            batch = order[start : start + self.total_batch_size]
            yield batch[self.rank :: self.world_size].tolist()
