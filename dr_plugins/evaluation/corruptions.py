"""Common corruptions (Hendrycks and Dietterich, 2019): names, images, AlexNet's errors."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from dr_plugins.errors import EvaluationError
from dr_plugins.evaluation.image_set import Edit

ALEXNET_ERRORS: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""Top-1 error of AlexNet on ImageNet-C, mean over severities, as the set's authors published it."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Corruptions for validation, which the mean corruption error leaves out."""

_SEEDED_APART = ("impulse_noise", "glass_blur")  # from generators that are not NumPy's global one
_RESIZE, _CROP, _QUALITY = 256, 224, 85  # of the published set


def names() -> tuple[str, ...]:
    """The fifteen corruptions of the mean corruption error."""
    return tuple(ALEXNET_ERRORS)


def mean_corruption_error(errors: Mapping[str, float]) -> float:
    """Return the mean of a model's errors, each divided by AlexNet's (mCE).

    Args:
        errors: Top-1 error of each of the fifteen corruptions, mean over severities.

    Returns:
        1 for a model as good as AlexNet, less for a better one.

    Raises:
        KeyError: A corruption is missing.

    Example:
        >>> mean_corruption_error(ALEXNET_ERRORS)
        1.0
    """
    ratios = [errors[name] / alexnet for name, alexnet in ALEXNET_ERRORS.items()]
    return sum(ratios) / len(ratios)


def corrupt(image: Image.Image, name: str, severity: int, key: str) -> Image.Image:
    """Corrupt an image. What is random depends on the other arguments alone.

    Args:
        image: RGB, at least 32 pixels on each side.
        name: One of `ALEXNET_ERRORS`, or ``speckle_noise``, ``gaussian_blur``, ``spatter``,
            ``saturate``.
        severity: 1 to 5.
        key: Of the image.

    Returns:
        An image of the same size.

    Raises:
        EvaluationError: The library that corrupts is not installed.

    Example:
        >>> corrupt(photograph, "fog", 3, "cat/1.jpg")                      # doctest: +SKIP
    """
    library = _library()
    text = f"{name} {severity} {key}".encode("utf-8", "surrogateescape")
    seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "little")
    options = {"seed": seed} if name in _SEEDED_APART else {}
    with _numpy_seeded(seed):
        pixels = library.corrupt(
            np.array(image), corruption_name=name, severity=severity, **options
        )
    return Image.fromarray(np.uint8(pixels))


def corrupted(name: str, severity: int, before: Edit | None = None) -> Edit:
    """Return an edit that makes images as ImageNet-C's were made: 224 pixels, JPEG quality 85.

    Raises:
        EvaluationError: The library that corrupts is not installed.
    """
    _library()
    return partial(_make, name=name, severity=severity, before=before)


def _make(
    image: Image.Image, key: str, *, name: str, severity: int, before: Edit | None
) -> Image.Image:
    if before is not None:
        image = before(image, key)
    image = transforms.center_crop(transforms.resize(image, [_RESIZE]), [_CROP])
    content = io.BytesIO()
    corrupt(image, name, severity, key).save(content, "JPEG", quality=_QUALITY)
    return Image.open(content).convert("RGB")


@cache
def _library() -> Any:
    try:
        import imagecorruptions
    except ImportError as error:
        raise EvaluationError(
            f"corrupting images needs imagecorruptions-imaug: {error}. Install it with "
            f'`pip install "dr-plugins[evaluate]"`'
        ) from error
    return imagecorruptions


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, which the library draws from, and restore it."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
