"""Making a set in any number of processes, which share nothing but its directory.

Each process claims a shard, makes it, and takes the next; see `Claims`. When no free shard is left,
it waits for those that others make: a shard whose maker ended without storing it is made here. The
last process writes the manifest. What a shard holds depends on its number alone, so it does not
matter who makes it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from dr_plugins.generation.planning import GenerationPlan
from dr_plugins.generation.views import ViewPlan
from dr_plugins.shards.claims import Claims
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.shards.shard import Shard, shard_name

# Always images per second: tqdm inverts slow rates by default.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
_REFRESHED = 5.0  # seconds between looks at what other processes have made
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Every N-th shard of a set, for processes that are to make a fixed share of it.

    Attributes:
        number: Which part, 1 to `count`.
        count: Number of parts, N.

    Raises:
        ValueError: `number` is not within 1 and `count`.

    Example:
        >>> list(Part.parse("2/3").shards(8))
        [1, 4, 7]
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"part {self.number}/{self.count}; expected I/N with 1 <= I <= N")

    @classmethod
    def parse(cls, text: str) -> Part:
        """Return the part that ``I/N`` names.

        Raises:
            ValueError: It names none.
        """
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if match is None:
            raise ValueError(f"part {text!r}; expected I/N with 1 <= I <= N, such as 3/8")
        return cls(*map(int, match.groups()))

    def shards(self, count: int) -> range:
        """Return the numbers of this part's shards, of `count` shards."""
        return range(self.number - 1, count, self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Process:
    """One of the processes that make a set.

    Attributes:
        name: What messages call it; empty if it is the only one.
        index: Its position among those that were started together.
        count: How many were started together.
    """

    name: str = ""
    index: int = 0
    count: int = 1


class SharedShards:
    """The shards that a process may make, those that others claim included.

    Args:
        output: Where they are stored.
        claims: The process' claims.
        numbers: The shards.
    """

    def __init__(self, output: OutputDirectory, claims: Claims, numbers: Sequence[int]) -> None:
        self._output, self._claims = output, claims
        self.pending = output.missing(numbers)

    def free(self) -> Iterator[int]:
        """Yield pending shards that nobody makes, each claimed by this process.

        Those that a process failed to make come last, for another one to try. Afterwards `pending`
        holds the shards that others make.
        """
        for retry in (False, True):
            for number in list(self.pending):
                if not self._claims.take(number):
                    continue
                # A name is looked up only with its claim: NFS remembers for a while that a file
                # was missing.
                if self._output.has(number):
                    self.pending.remove(number)
                elif retry or self._output.failure(number) is None:
                    self.pending.remove(number)
                    yield number
                    continue
                self._claims.give_back(number)

    def wait(self) -> None:
        """Wait until the maker of the first pending shard has stored it, given it up, or ended."""
        number = self.pending[0]
        self._claims.take(number, wait=True)
        if self._output.has(number):
            self.pending.remove(number)
        self._claims.give_back(number)

    def store(self, number: int, shard: Shard) -> None:
        """Store a claimed shard and give back its claim."""
        self._output.add(number, shard)
        self._claims.give_back(number)


class SharedProgress:
    """A bar of the images that all processes have completed.

    Args:
        plan: What the set is.
        output: Where finished shards are.
        shown: Whether the bar is shown.
        logged: Whether each shard is logged.
    """

    def __init__(
        self, plan: GenerationPlan, output: OutputDirectory, *, shown: bool, logged: bool
    ) -> None:
        self._views, self._output, self._shown = plan.views, output, shown
        self._logged = logged
        self._partial = 0  # images of the shard that is being made here
        self._looked = time.monotonic()
        self.bar = _bar(self._views, self._stored(), shown)

    def __enter__(self) -> SharedProgress:
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()

    def advance(self, images: int) -> None:
        """Count images that this process has completed."""
        self._partial += images
        self.bar.update(images)
        if self._shown and time.monotonic() - self._looked > _REFRESHED:
            self.refresh()

    def stored(self, number: int) -> None:
        """Count a shard that this process has stored."""
        self._partial -= len(self._views.rows(number))
        if self._logged:
            _logger.info("%s is stored", shard_name(number))

    def refresh(self) -> None:
        """Count what all processes have stored."""
        self.bar.update(self._stored() + max(self._partial, 0) - self.bar.n)
        self._looked = time.monotonic()

    def _stored(self) -> int:
        every = range(self._views.shards)
        missing = self._output.missing(every)
        return self._views.images - sum(len(self._views.rows(number)) for number in missing)


def _bar(views: ViewPlan, done: int, shown: bool) -> Any:
    return tqdm(
        desc=f"{views.samples} views of each image",
        total=views.images,
        initial=done,
        unit=" images",
        bar_format=_BAR,
        disable=not shown,
    )
