"""Comparing lists of classes in label order."""

from __future__ import annotations

from collections.abc import Sequence

from dr_plugins.errors import DatasetMismatchError, ReinforcementError
from dr_plugins.utils.advice import advice
from dr_plugins.utils.quoting import quoted


def check_class_names(
    names: Sequence[str] | None,
    expected: Sequence[str] | None,
    what: str,
    reference: str,
    error: type[ReinforcementError] = DatasetMismatchError,
) -> None:
    """Check that two datasets have the same classes in the same order, if both are known.

    Args:
        names: Class names in label order.
        expected: Expected class names in label order.
        what: Owner of `names`, for the message.
        reference: Owner of `expected`, for the message.
        error: Type of the error.

    Raises:
        DatasetMismatchError: They differ, so labels would mean other classes.

    Example:
        >>> check_class_names(["cat", "dog"], ["cat", "dog"], "the dataset", "the shard set")
    """
    if names is None or expected is None or list(names) == list(expected):
        return
    pairs = zip(names, expected, strict=False)
    differing = [f"({quoted(a)}, {quoted(b)})" for a, b in pairs if a != b]
    raise error(
        f"{what} has {len(names)} classes, {reference} {len(expected)}"
        + (f"; the first that differ are {differing[0]}" if differing else "")
        + ": labels would mean other classes. Use the same classes in the same order; if only "
        f"the order differs, pass a class map{advice('class_map')}"
    )
