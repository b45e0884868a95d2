"""Argument checks that both backends share."""

from __future__ import annotations

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def check_bits(bits: int) -> None:
    """Raise `ValueError` unless `bits` is 1 to 8."""
    if not 1 <= bits <= 8:
        raise ValueError(f"posterize bits is {bits}, expected 1 to 8")


def check_box(
    operation: str, size: tuple[int, int], top: int, left: int, height: int, width: int
) -> None:
    """Raise unless a box is non-empty and lies within an image of ``size = (height, width)``.

    Raises:
        ValueError: The box is empty or leaves the image; usually it was made for another image.
    """
    inside = 0 <= top < top + height <= size[0] and 0 <= left < left + width <= size[1]
    if not inside:
        raise ValueError(
            f"{operation} box (top={top}, left={left}, height={height}, width={width}) does not "
            f"lie within the image of {size[0]}x{size[1]} pixels (height x width); "
            "was it made for another image?"
        )


def check_interpolation(interpolation: str) -> None:
    """Raise `ValueError` unless the interpolation is known."""
    if interpolation not in _INTERPOLATIONS:
        raise ValueError(
            f"interpolation is {interpolation!r}, expected one of {', '.join(_INTERPOLATIONS)}"
        )
