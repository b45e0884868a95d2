"""Which process of a launcher this is, and which devices are its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dr_plugins.errors import WorkerError
from dr_plugins.generation.sharing import Process


@dataclass(frozen=True)
class Rank:
    """One process of ``torchrun``.

    Attributes:
        rank: Its number among all.
        world_size: Number of all.
        local_rank: Its number on its machine.
        local_world_size: Number on its machine.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Rank | None:
        """Return the rank that torchrun states in the environment; None without torchrun.

        Raises:
            WorkerError: The environment states only a part of it.

        Example:
            >>> Rank.from_environment({}) is None
            True
        """
        if "TORCHELASTIC_RUN_ID" not in environment:
            return None
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if unknown := [name for name in names if not environment.get(name, "").isdecimal()]:
            raise WorkerError(
                f"TORCHELASTIC_RUN_ID is set, as in ranks of torchrun, but {', '.join(unknown)} "
                f"is no number. Set all of them, or unset TORCHELASTIC_RUN_ID."
            )
        return cls(*(int(environment[name]) for name in names))

    @property
    def process(self) -> Process:
        """What shared generation knows of it."""
        return Process(f"rank {self.rank}", self.rank, self.world_size)


def rank_device(name: str | None, local_rank: int, *, cuda: bool) -> str:
    """Return a rank's device.

    Args:
        name: What the user chose; a device with a number is taken as it is.
        local_rank: Number of the process on its machine.
        cuda: Whether there are CUDA devices, which are the default.

    Example:
        >>> rank_device(None, 3, cuda=True), rank_device("cuda:1", 3, cuda=True)
        ('cuda:3', 'cuda:1')
    """
    name = name or ("cuda" if cuda else "cpu")
    return f"cuda:{local_rank}" if name == "cuda" else name


def rank_devices(names: Sequence[str], local_rank: int) -> tuple[str, ...]:
    """Return the devices of a rank's teachers, given those of the first rank on the machine.

    Every rank uses as many consecutive CUDA devices as the first one.

    Example:
        >>> rank_devices(["cuda:0", "cuda:1", "cuda:1"], local_rank=2)
        ('cuda:4', 'cuda:5', 'cuda:5')
    """
    numbers = [re.fullmatch(r"cuda:([0-9]+)", name) for name in names]
    each = 1 + max((int(number[1]) for number in numbers if number), default=0)
    return tuple(
        f"cuda:{int(number[1]) + local_rank * each}" if number else name
        for name, number in zip(names, numbers, strict=True)
    )
