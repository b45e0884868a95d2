"""Network inputs bit-identical to those of ml-dr's training loop.

ml-dr normalizes two views and then mixes them in float32; this package mixes them in uint8, which
rounds to whole levels. If nothing is mixed, normalizing the uint8 view gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from dr_plugins.errors import FormatError
from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.shards.reader import ShardSet
from dr_plugins.transforms import CutMix, Mixup, normalize


def normalization(shards: ShardSet) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation that ml-dr normalized with.

    Raises:
        FormatError: The shard set was not imported from ml-dr, or ml-dr did not normalize.

    Example:
        >>> mean, std = normalization(ShardSet("imagenet-plus-mini"))       # doctest: +SKIP
    """
    origin = shards.manifest.settings.get("origin") or {}
    if not origin.get("mean") or not origin.get("std"):
        raise FormatError(
            f"{shards.location} has no normalization by ml-dr: it was not imported from "
            f"one of its archives. Normalize as the network expects."
        )
    return origin["mean"], origin["std"]


def replay_normalized(
    policy: Policy,
    image: Image.Image,
    params: AugmentParams,
    partner: Image.Image | None = None,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> torch.Tensor:
    """Replay a view as ml-dr does: normalize, then mix in float32.

    Args:
        policy: The set's policy.
        image: RGB image.
        params: From `Policy.decode`.
        partner: RGB image of row ``params.partner``; required unless that is None.
        mean: Mean per channel; full scale is 1.
        std: Standard deviation per channel; full scale is 1.

    Returns:
        float32 ``[3, H, W]``.

    Example:
        >>> policy = Policy.load("rrc", size=2)
        >>> params = AugmentParams([(0, 0, 4, 4), 0])
        >>> white = Image.new("RGB", (4, 4), "white")
        >>> replay_normalized(policy, white, params, mean=[0.5] * 3, std=[0.5] * 3).unique()
        tensor([1.])
    """
    view = normalize(policy.apply(image, AugmentParams(params.view)), mean, std)
    if params.partner is None:
        return view
    assert partner is not None, "a mixed view requires its partner's image"
    other = normalize(policy.apply(partner, AugmentParams(params.partner_view)), mean, std)
    for mixing, values in zip(policy.mixings, params.mixing, strict=True):
        view = _mix(mixing, view, other, values)
    return view


def _mix(mixing: object, view: torch.Tensor, other: torch.Tensor, values: object) -> torch.Tensor:
    if isinstance(mixing, Mixup):
        # 1 - lam in float64, each product in float32: another order rounds differently.
        return view if values == mixing.unmixed else values * view + (1 - values) * other  # type: ignore[operator]
    assert isinstance(mixing, CutMix)
    return mixing.apply(view, other, values)
