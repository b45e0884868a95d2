"""Inverse affine matrices: output pixel to input pixel, shared by both backends.

A matrix ``(a, b, c, d, e, f)`` maps output coordinates to input coordinates,
``x_in = a x + b y + c`` and ``y_in = d x + e y + f``, in pixels from the top left corner. The last
bit of every entry matters: it decides which pixel is the nearest.
"""

from __future__ import annotations

import math

Matrix = tuple[float, float, float, float, float, float]


def _shear_angle(factor: float) -> float:
    # Via degrees, like torchvision: the round trip can change the last bit.
    return math.radians(math.degrees(math.atan(factor)))


def shear_x(factor: float) -> Matrix:
    """Return the matrix that samples row ``y`` shifted by ``factor * y`` pixels.

    Example:
        >>> shear_x(0.0)
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    """
    return 1.0, math.tan(_shear_angle(factor)), 0.0, 0.0, 1.0, 0.0


def shear_y(factor: float) -> Matrix:
    """Return the matrix that samples column ``x`` shifted by ``factor * x`` pixels."""
    angle = _shear_angle(factor)
    return 1.0, 0.0, 0.0, math.sin(angle) / math.cos(angle), 1.0, 0.0


def rotation(degrees: float, height: int, width: int) -> Matrix:
    """Return the matrix of a counter-clockwise rotation around the centre of the image."""
    angle = -math.radians(degrees % 360.0)
    # Rounded like Pillow, so quarter turns are exact.
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y


def translation(x: int, y: int) -> Matrix:
    """Return the matrix that moves the image `x` pixels to the right and `y` down."""
    return 1.0, 0.0, float(-x), 0.0, 1.0, float(-y)
