"""How views were made: where they lie in their image, and what was done to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dr_plugins.policies.policy import Policy
from dr_plugins.transforms.base import Size


def describe_views(policy: Policy, records: np.ndarray, size: Size) -> list[dict[str, Any]]:
    """Return ``outline``, ``done`` and ``partner`` (a row) of an image's views.

    Args:
        policy: The set's policy.
        records: The image's records, ``[S]``.
        size: (height, width) of the image in pixels, (0, 0) if unknown.
    """
    return [
        {
            "outline": _outline(policy, params.view, size) if any(size) else None,
            "done": _done(policy, params.view),
            "partner": params.partner,
        }
        for params in policy.decode(records)
    ]


def _outline(policy: Policy, params: Sequence[Any], size: Size) -> list[list[float]]:
    """The corners of a view in its image, (x, y) in the image's pixels."""
    corners: list[list[float]] = policy.geometry(params, size).outline().round(1).tolist()
    return corners


def _done(policy: Policy, params: Sequence[Any]) -> list[str]:
    """What was done to a view after its crop."""
    parametric = (t for t in policy.transforms if t.field is not None)
    pairs = zip(parametric, params, strict=True)
    return [words for transform, value in pairs for words in transform.describe(value)]
