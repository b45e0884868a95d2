"""Resizing, cropping and flipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from dr_plugins.errors import PolicyError
from dr_plugins.records import Field
from dr_plugins.transforms.base import (
    AnyImage,
    CropTransform,
    Params,
    Size,
    Transform,
    ViewTransform,
    affine_matrix,
    check_count,
    check_probability,
    check_range,
)
from dr_plugins.transforms.kernels import kernels_for
from dr_plugins.transforms.kernels.batch import upload
from dr_plugins.transforms.kernels.checks import check_box, check_interpolation
from dr_plugins.transforms.kernels.crop_resize import crop_resize

_CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class Resize(Transform):
    """Resize the shorter side to `size` pixels, keeping the aspect ratio, or to a fixed size.

    Attributes:
        size: Pixels of the shorter side after resizing; or (height, width), ignoring the ratio.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``; antialiased.
    """

    name: ClassVar[str] = "resize"
    size: int | Size
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        height, width = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        check_count("size", height)
        check_count("size", width)
        check_interpolation(self.interpolation)

    def output_size(self, size: Size) -> Size:
        """Return (height, width); if the ratio is kept, the longer side is rounded down."""
        if isinstance(self.size, tuple):
            height, width = self.size
            return height, width
        short, long = min(size), max(size)
        scaled = int(self.size * long / short)
        return (self.size, scaled) if size[0] <= size[1] else (scaled, self.size)

    def apply(self, image: AnyImage, params: Params) -> AnyImage:
        """Return the resized image; there are no parameters."""
        kernels = kernels_for(image)
        size = kernels.size(image)
        target = self.output_size(size)
        return image if target == size else kernels.resize(image, target, self.interpolation)

    def matrices(self, params: Params, size: Size) -> Sequence[np.ndarray]:
        """Return the scaling."""
        height, width = self.output_size(size)
        return [affine_matrix((width / size[1], 0), (height / size[0], 0))]

    def apply_as(self, image: torch.Tensor, backend: str) -> torch.Tensor:
        """Return the result of `apply` in a backend, computed on the tensor's device."""
        size = image.shape[-2], image.shape[-1]
        box, target = np.array([[0, 0, *size]]), self.output_size(size)
        return crop_resize([image], [0], box, target, self.interpolation, backend)[0]


@dataclass(frozen=True)
class CenterCrop(Transform):
    """Cut the central `size` x `size` pixels; a smaller image gets a black border first."""

    name: ClassVar[str] = "center_crop"
    decides_size: ClassVar[bool] = True
    size: int

    def __post_init__(self) -> None:
        check_count("size", self.size)

    def output_size(self, size: Size) -> Size:
        """Return ``(size, size)``."""
        return self.size, self.size

    def apply(self, image: AnyImage, params: Params) -> AnyImage:
        """Return the crop; there are no parameters."""
        kernels = kernels_for(image)
        top, left = self._start(kernels.size(image))
        border = (max(self.size - min(kernels.size(image)), 0) + 1) // 2
        if border:
            image = kernels.pad(image, border)
        return kernels.crop(image, top + border, left + border, self.size, self.size)

    def matrices(self, params: Params, size: Size) -> Sequence[np.ndarray]:
        """Return the translation."""
        top, left = self._start(size)
        return [affine_matrix((1, -left), (1, -top))]

    def _start(self, size: Size) -> tuple[int, int]:
        """Top and left of the crop; an odd pixel is placed as in torchvision."""
        top, left = (side - self.size for side in size)
        return _half(top), _half(left)


@dataclass(frozen=True)
class RandomCrop(CropTransform):
    """Pad all sides with black, then cut `size` x `size` pixels at a random place.

    Parameters are (top, left) in the padded image.

    Attributes:
        size: Side of the crop in pixels.
        padding: Pixels added on every side.
    """

    name: ClassVar[str] = "random_crop"
    decides_size: ClassVar[bool] = True
    size: int
    padding: int = 0

    def __post_init__(self) -> None:
        check_count("size", self.size)
        check_count("padding", self.padding, least=0)

    @property
    def field(self) -> Field:
        """``offset``: two uint16."""
        return Field("offset", "<u2", (2,))

    def sample(self, rng: np.random.Generator, size: Size) -> Params:
        """Draw (top, left) uniformly.

        Raises:
            PolicyError: The padded image is smaller than the crop.
        """
        room = [side + 2 * self.padding - self.size for side in size]
        if min(room) < 0:
            raise PolicyError(
                f"random_crop of {self.size} pixels does not fit an image of {size[0]}x{size[1]} "
                f"padded by {self.padding}; put `resize` before it or choose a smaller size"
            )
        return tuple(int(rng.integers(0, space + 1)) for space in room)

    def output_size(self, size: Size) -> Size:
        """Return ``(size, size)``."""
        return self.size, self.size

    def check_fit(self, params: Params, size: Size) -> None:
        """Raise `ValueError` unless a crop at ``params`` lies within the padded image."""
        padded = size[0] + 2 * self.padding, size[1] + 2 * self.padding
        top, left = params
        check_box("random_crop", padded, top, left, self.size, self.size)

    def apply(self, image: AnyImage, params: Params) -> AnyImage:
        """Return the crop at ``params = (top, left)``."""
        kernels = kernels_for(image)
        if self.padding:
            image = kernels.pad(image, self.padding)
        return kernels.crop(image, *params, self.size, self.size)

    def matrices(self, params: Params, size: Size) -> Sequence[np.ndarray]:
        """Return the translation."""
        top, left = params
        return [affine_matrix((1, self.padding - left), (1, self.padding - top))]

    def crop_batch(
        self,
        images: Sequence[torch.Tensor],
        which: Sequence[int],
        params: np.ndarray,
        backend: str,
    ) -> torch.Tensor:
        """Return the crops at ``params``, ``[B, 2]``; both backends agree."""
        padded = [kernels_for(image).pad(image, self.padding) for image in images]
        boxes = np.concatenate([params, np.full_like(params, self.size)], 1)
        return crop_resize(padded, which, boxes, (self.size, self.size), "nearest")


@dataclass(frozen=True)
class RandomResizedCrop(CropTransform):
    """Cut a box of random area and aspect ratio and resize it to `size` x `size` pixels.

    The crop of Szegedy et al., 2015 (Inception). Parameters are (top, left, height, width).

    Attributes:
        size: Side of the result in pixels.
        scale: Range of the box's share of the image area.
        ratio: Range of the box's aspect ratio, width / height, sampled log-uniformly.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``; antialiased.
    """

    name: ClassVar[str] = "random_resized_crop"
    decides_size: ClassVar[bool] = True
    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        check_count("size", self.size)
        check_range("scale", self.scale)
        check_range("ratio", self.ratio)
        check_interpolation(self.interpolation)

    @property
    def field(self) -> Field:
        """``crop``: four uint16."""
        return Field("crop", "<u2", (4,))

    def sample(self, rng: np.random.Generator, size: Size) -> Params:
        """Draw (top, left, height, width); the largest central box if ten attempts do not fit."""
        height, width = size
        low, high = (math.log(r) for r in self.ratio)
        for _ in range(_CROP_ATTEMPTS):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = rng.integers(0, (height - h + 1, width - w + 1)).tolist()
                return top, left, h, w
        return self._central(height, width)

    def _central(self, height: int, width: int) -> tuple[int, int, int, int]:
        h = min(height, max(1, round(width / self.ratio[0])))
        w = min(width, max(1, round(height * self.ratio[1])))
        return (height - h) // 2, (width - w) // 2, h, w

    def output_size(self, size: Size) -> Size:
        """Return ``(size, size)``."""
        return self.size, self.size

    def check_fit(self, params: Params, size: Size) -> None:
        """Raise `ValueError` unless the box ``params`` lies within the image."""
        check_box("random_resized_crop", size, *params)

    def apply(self, image: AnyImage, params: Params) -> AnyImage:
        """Return the box ``params = (top, left, height, width)``, resized."""
        kernels = kernels_for(image)
        image = kernels.crop(image, *params)
        return kernels.resize(image, (self.size, self.size), self.interpolation)

    def matrices(self, params: Params, size: Size) -> Sequence[np.ndarray]:
        """Return the translation and scaling."""
        top, left, height, width = params
        x, y = self.size / width, self.size / height
        return [affine_matrix((x, -left * x), (y, -top * y))]

    def crop_batch(
        self,
        images: Sequence[torch.Tensor],
        which: Sequence[int],
        params: np.ndarray,
        backend: str,
    ) -> torch.Tensor:
        """Return the boxes ``params``, ``[B, 4]``, resized."""
        size = self.size, self.size
        return crop_resize(images, which, params, size, self.interpolation, backend)


@dataclass(frozen=True)
class RandomHorizontalFlip(ViewTransform):
    """Mirror left and right with probability `p`. The parameter is 1 if mirrored, else 0."""

    name: ClassVar[str] = "random_horizontal_flip"
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.p)

    @property
    def field(self) -> Field:
        """``flip``: one uint8."""
        return Field("flip", "<u1")

    def sample(self, rng: np.random.Generator, size: Size) -> Params:
        """Draw 0 or 1."""
        return int(rng.random() < self.p)

    def apply(self, image: AnyImage, params: Params) -> AnyImage:
        """Return the image, mirrored if ``params`` is 1."""
        return kernels_for(image).hflip(image) if params else image

    def matrices(self, params: Params, size: Size) -> Sequence[np.ndarray]:
        """Return the reflection, if there is one."""
        return [affine_matrix((-1, size[1]), (1, 0))] if params else ()

    def describe(self, params: Params) -> Sequence[str]:
        """Return whether the view is mirrored."""
        return ("mirrored",) if params else ()

    def apply_batch(self, images: torch.Tensor, params: np.ndarray) -> torch.Tensor:
        """Return the images, mirrored where ``params``, ``[B]``, is 1."""
        mirrored = upload(params.astype(bool), images.device)
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def _half(room: int) -> int:
    return round(room / 2) if room >= 0 else -(-room // 2)
