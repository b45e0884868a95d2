"""How far an unfinished shard set is, and finishing it: for sets that many processes make."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from dr_plugins.errors import FormatError, OutputError
from dr_plugins.generation.views import ViewPlan
from dr_plugins.shards.address import Place, located
from dr_plugins.shards.claims import Claims, joined
from dr_plugins.shards.location import Location
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.shards.shard import shard_name
from dr_plugins.shards.unfinished import failure_name, read_failure, read_progress
from dr_plugins.utils.files import MANIFEST_NAME, PROGRESS_NAME

_WINDOW = 1800.0  # seconds over which the rate is measured
_NAMED = 10


@dataclass(frozen=True)
class SetProgress:
    """How far all processes together are.

    Attributes:
        shards: Number of shards of the set.
        stored: Number of finished shards.
        images: Number of images.
        done: Number of images in finished shards.
        made: Numbers of the shards that are being made.
        failures: Why shards could not be made, by number.
        rate: Images per second, over the last half hour of work; None if no shard was finished.
    """

    shards: int
    stored: int
    images: int
    done: int
    made: tuple[int, ...]
    failures: dict[int, str]
    rate: float | None

    @property
    def remaining(self) -> float | None:
        """Seconds until the set is complete, at this rate; None if it is unknown."""
        return (self.images - self.done) / self.rate if self.rate else None

    def __str__(self) -> str:
        share = self.done / self.images
        lines = [
            f"{self.stored} of {self.shards} shards, {self.done} of {self.images} images "
            f"({share:.1%})",
            f"shards being made: {_listed(self.made) or 'none'}",
        ]
        if self.rate:
            left = datetime.timedelta(seconds=round(self.remaining or 0))
            lines.append(f"{self.rate:.1f} images/s; {left} left at this rate")
        lines += [f"shard {number} failed: {text}" for number, text in self.failures.items()]
        return "\n".join(lines)


def measure_progress(directory: Place) -> SetProgress:
    """Measure how far a set is that any number of processes make; changes nothing.

    Raises:
        FormatError: The directory has no unfinished set.
    """
    place = located(directory)
    progress = read_progress(place)
    plan = _plan(progress["settings"], place)
    names = set(place.names())
    stored = [number for number in range(plan.shards) if shard_name(number) in names]
    missing = sorted({*range(plan.shards)} - {*stored})
    return SetProgress(
        plan.shards,
        len(stored),
        plan.images,
        sum(len(plan.rows(number)) for number in stored),
        _being_made(place, missing),
        _failures(place, names, missing),
        _rate(place, plan, stored),
    )


def finish_set(directory: Place) -> Manifest:
    """Check all shards and write the manifest, which completes the set.

    Args:
        directory: Of a set whose shards are all made.

    Raises:
        FormatError: There is no unfinished set, or shards are missing or damaged; names them.
        OutputError: The manifest cannot be written.
    """
    place = located(directory)
    if (place / MANIFEST_NAME).exists() and not (place / PROGRESS_NAME).exists():
        return Manifest.load(place)
    read_progress(place)  # before a lock is created where there is no set
    with joined(place) as claims, claims.finishing():
        if (place / MANIFEST_NAME).exists():
            return Manifest.load(place)
        output = OutputDirectory.reopen(place)
        plan = _plan(output.settings, place)
        every = range(plan.shards)
        left = [number for number in every if not output.keep(number, *plan.place(number))]
        if left:
            raise FormatError(
                f"{len(left)} of {plan.shards} shards of {place} are missing or damaged: "
                f"{_listed(left)}. Make them with the `dr-plugins reinforce` command of the set; "
                f"without --part it makes all that are left."
            )
        return output.finish()


def _plan(settings: dict[str, object], place: Location) -> ViewPlan:
    numbers: list[Any] = [settings.get(name) for name in ("images", "samples", "shard_images")]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise FormatError(f"{place / PROGRESS_NAME} does not say how the set is divided: {numbers}")
    images, samples, shard_images = numbers
    return ViewPlan(images, samples, shard_images, 1)


def _being_made(place: Location, missing: list[int]) -> tuple[int, ...]:
    try:
        with place.locks() as locks:
            claims = Claims(locks)
            return tuple(number for number in missing if claims.is_taken(number))
    except OutputError:  # who may only read sees the rest
        return ()


def _failures(place: Location, names: set[str], missing: list[int]) -> dict[int, str]:
    found = {}
    for number in missing:
        name = failure_name(number)
        if name in names:
            found[number] = read_failure(place / name) or ""
    return found


def _rate(place: Location, plan: ViewPlan, stored: list[int]) -> float | None:
    """Images per second since the processes started, or over the last half hour of work."""
    written = {number: (place / shard_name(number)).modified() for number in stored}
    if not written:
        return None
    last = max(written.values())
    first = max((place / PROGRESS_NAME).modified(), last - _WINDOW)
    images = sum(len(plan.rows(number)) for number, time in written.items() if time > first)
    return images / (last - first) if images else None


def _listed(numbers: list[int] | tuple[int, ...]) -> str:
    more = f", ... ({len(numbers) - _NAMED} more)" if len(numbers) > _NAMED else ""
    return ", ".join(map(str, numbers[:_NAMED])) + more
