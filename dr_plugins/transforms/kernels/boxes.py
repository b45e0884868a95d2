"""Checking pixel boxes."""

from __future__ import annotations

__all__ = ["check_box"]


def check_box(
    operation: str, size: tuple[int, int], top: int, left: int, height: int, width: int
) -> None:
    """Raise unless a box is non-empty and lies within an image of ``size = (height, width)``.

    Raises:
        ValueError: It does not; a box made for another image is the usual reason.
    """
    inside = 0 <= top < top + height <= size[0] and 0 <= left < left + width <= size[1]
    if not inside:
        raise ValueError(
            f"{operation} box (top={top}, left={left}, height={height}, width={width}) does not "
            f"lie within the image of {size[0]}x{size[1]} pixels (height x width); "
            "was it made for another image?"
        )
