"""Choosing the images to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dr_plugins.errors import SettingsMismatchError
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import ImageStatistics


def choose_rows(
    shards: ShardSet,
    among: np.ndarray,
    statistics: Callable[[], ImageStatistics],
    *,
    order: str = "random",
    count: int = 8,
    class_name: str | None = None,
    seed: int = 0,
) -> list[int]:
    """Choose images of a set.

    Args:
        shards: The set.
        among: Rows to choose from, int64.
        statistics: Returns those of the set; called if they are needed.
        order: ``"worst"`` or ``"best"``: the images whose label is least or most probable in the
            answer averaged over views; ``"random"``: any.
        count: Number of images; all, if there are not so many.
        class_name: Choose images with this label: a class name, or a class number.
        seed: Of the random choice.

    Returns:
        Rows: the worst or best first, random ones ascending.

    Raises:
        SettingsMismatchError: There is no such class, or no image fits.

    Example:
        >>> choose_rows(shards, pictures.rows, lambda: found, order="worst")  # doctest: +SKIP
    """
    if class_name is not None:
        label = class_number(shards, class_name)
        among = among[statistics().label[among] == label]
    if order == "random":
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(among)[:count])
    else:
        among = among[statistics().label[among] >= 0]
        probs = statistics().label_prob[among]
        chosen = among[np.argsort(-probs if order == "best" else probs, kind="stable")[:count]]
    if not len(chosen):
        raise SettingsMismatchError(
            f"no image of {shards.location} fits"
            + (f" the class {class_name!r}" if class_name is not None else "")
            + ("" if order == "random" else ": the worst and the best need labels")
        )
    return [int(row) for row in chosen]


def class_number(shards: ShardSet, name: str) -> int:
    """Return the number of a class.

    Args:
        shards: A set.
        name: The class's name in it, or its number.

    Raises:
        SettingsMismatchError: There is no such class.
    """
    names: Sequence[str] = shards.manifest.settings["class_names"] or ()
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < shards.manifest.num_classes:
        return int(name)
    few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise SettingsMismatchError(
        f"{shards.location} has no class {name!r}; expected "
        f"{f'a name such as {few}, or ' if names else ''}a number below "
        f"{shards.manifest.num_classes}"
    )
