"""A loader that continues in the middle of an epoch, with any number of workers and processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.training.dataset import ReinforcedDataset


class EpochSampler(Sampler[int]):
    """Positions of one process' images in an epoch, as a function of seed and epoch.

    Each epoch permutes all images; process r takes every `world_size`-th from the r-th on, so the
    processes' n-th batches together are the n-th part of the permutation, however many processes
    there are. To give each the same number, the first images follow the last ones again.

    Args:
        size: Number of images.
        seed: Of the permutations.
        rank: Rank of this process.
        world_size: Number of processes.

    Attributes:
        epoch: Number of the epoch, from 0.
        first: Number of images, over all processes, that are skipped in this epoch.

    Example:
        >>> sampler = EpochSampler(5, rank=1, world_size=2)
        >>> whole = list(sampler)
        >>> sampler.first = 4
        >>> list(sampler) == whole[2:]
        True
    """

    def __init__(self, size: int, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; expected 0 <= rank < {world_size}")
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        """Return the number of images in a whole epoch."""
        return -(-self.size // self.world_size)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        order = np.resize(order, len(self) * self.world_size)
        return iter(order[self.first + self.rank :: self.world_size].tolist())

    def state_after(self, epoch: int, images: int) -> dict[str, int]:
        """Return the state after some images of an epoch; see `ResumableLoader.state_dict`."""
        return {"epoch": epoch, "images": images, "seed": self.seed, "size": self.size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where another sampler was; see `ResumableLoader.load_state_dict`."""
        for name, here in (("size", self.size), ("seed", self.seed)):
            if state[name] != here:
                raise DatasetMismatchError(
                    f"the saved loader has {name} {state[name]}, this one {here}: the order of "
                    f"images would be another one. Use the same images and seed to continue"
                )
        if state["images"] % self.world_size:
            raise DatasetMismatchError(
                f"the saved loader stopped after {state['images']} images, which cannot be divided "
                f"among {self.world_size} processes"
            )
        self.epoch, self.first = state["epoch"], state["images"]


class ResumableLoader(DataLoader[Any]):
    """A `DataLoader` of a reinforced dataset whose state can be saved at any batch.

    Images, views and answers of a batch depend on seed, epoch and position in the epoch alone. A
    run that continues from `state_dict` gets the batches that it would have got otherwise, with any
    number of workers, and also with another number of processes if all together have the same batch
    size. (torchdata's ``StatefulDataLoader`` needs the same number of workers.)

    Args:
        dataset: The dataset.
        batch_size: Images per batch of this process.
        seed: Of the order of images.
        rank: Rank of this process.
        world_size: Number of processes.
        **options: Of `DataLoader`, such as ``num_workers`` and ``drop_last``.

    Raises:
        ValueError: ``in_order=False``, with which the batches taken are not the first ones.

    Example:
        >>> loader = ResumableLoader(train, 256, num_workers=8)             # doctest: +SKIP
        >>> loader.load_state_dict(torch.load("last.pt")["loader"])         # doctest: +SKIP
        >>> for epoch in range(loader.epoch, 300):                          # doctest: +SKIP
        ...     loader.set_epoch(epoch)
        ...     for images, targets in loader:
        ...         ...
        ...         torch.save({"loader": loader.state_dict(), ...}, "last.pt")
    """

    def __init__(
        self,
        dataset: ReinforcedDataset,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
    ) -> None:
        if not options.get("in_order", True):
            raise ValueError("a loader that does not keep the order cannot be resumed")
        sampler = EpochSampler(len(dataset), seed=seed, rank=rank, world_size=world_size)
        options.setdefault("collate_fn", dataset.collate)
        super().__init__(dataset, batch_size, sampler=sampler, **options)
        self._order, self._reinforced = sampler, dataset
        self._taken = 0  # images of this epoch over all processes, up to the last batch

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._order.epoch + self._is_over

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, of order and views; a new epoch starts at its beginning.

        Raises:
            ValueError: It is negative.
        """
        self._reinforced.set_epoch(epoch)
        if epoch != self._order.epoch or self._is_over:
            self._order.epoch, self._order.first, self._taken = epoch, 0, 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Return the batches of the epoch; after `load_state_dict`, those that remain."""
        self.set_epoch(self._order.epoch)
        self._taken = self._order.first
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        assert self.batch_size is not None
        for batch in batches:
            self._taken += self.batch_size * self._order.world_size
            yield batch
        self._taken = self._order.size

    @property
    def _is_over(self) -> bool:
        return self._taken >= self._order.size

    def state_dict(self) -> dict[str, int]:
        """Return where the epoch is after the last batch that was taken, the same in all processes.

        Returns:
            ``epoch``, ``images`` (number of images taken in it over all processes), ``seed`` and
            ``size`` (number of images).
        """
        return self._order.state_after(self.epoch, 0 if self._is_over else self._taken)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where another loader was.

        Raises:
            DatasetMismatchError: It had other images or another seed, or processes that took
                another number of images together.
        """
        self._order.load_state_dict(state)
        self._reinforced.set_epoch(state["epoch"])
        self._taken = state["images"]
