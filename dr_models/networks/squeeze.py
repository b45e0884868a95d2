"""Width of squeeze-and-excitation in CVNets."""

from __future__ import annotations

from timm.layers import make_divisible


def squeeze_width(channels: float) -> int:
    """Round to a multiple of 8, at least 32.

    Example:
        >>> [squeeze_width(channels) for channels in (4, 22, 88)]
        [32, 32, 88]
    """
    return max(32, make_divisible(channels, 8))
