"""Comparing lists of classes in label order."""

from __future__ import annotations

from collections.abc import Sequence

from dr_plugins.utils.advice import advice
from dr_plugins.utils.quoting import quoted


def compare_class_names(
    names: Sequence[str] | None, expected: Sequence[str] | None, what: str, reference: str
) -> str:
    """Compare the classes of two datasets, and their order, if both are known.

    Args:
        names: Class names in label order.
        expected: Expected class names in label order.
        what: Owner of `names`, for the message.
        reference: Owner of `expected`, for the message.

    Returns:
        What is wrong, since labels would mean other classes; empty if the classes are the same.

    Example:
        >>> compare_class_names(["cat", "dog"], ["cat", "dog"], "the dataset", "the shard set")
        ''
    """
    if names is None or expected is None or list(names) == list(expected):
        return ""
    pairs = zip(names, expected, strict=False)
    differing = [f"({quoted(a)}, {quoted(b)})" for a, b in pairs if a != b]
    return (
        f"{what} has {len(names)} classes, {reference} {len(expected)}"
        + (f"; the first that differ are {differing[0]}" if differing else "")
        + ": the same label would stand for different classes. Use the same classes in the same "
        f"order; if only the order differs, pass a class map{advice('class_map')}"
    )
