"""RandAugment: a few random operations of fixed strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch

from dr_plugins.records import Field
from dr_plugins.transforms.base import (
    AnyImage,
    Params,
    Size,
    ViewTransform,
    check_count,
    check_probability,
)
from dr_plugins.transforms.kernels import kernels_for
from dr_plugins.transforms.kernels.batch import upload
from dr_plugins.transforms.operations import OPERATIONS, Operation, operation_names

NEGATIVE = 0x80
"""Added to an operation's number in a record if its magnitude is negative."""

# Spelled out: a new operation must change neither the draws nor the identity of any policy.
_OF_TORCHVISION = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
_NUMBERS = {name: number for number, name in enumerate(operation_names())}


@dataclass(frozen=True)
class RandAugment(ViewTransform):
    """Apply `num_ops` random operations, with probability `p` (Cubuk et al., 2020).

    Parameters are one byte per operation: its number, plus 128 if its magnitude is negative; all
    zero (Identity) if nothing is applied. Magnitudes follow from `magnitude` and the image size.
    Geometric operations sample the nearest pixel and fill with black.

    Attributes:
        num_ops: Operations per image.
        magnitude: Strength, within ``[0, num_magnitude_bins)``.
        num_magnitude_bins: Number of levels.
        p: Probability that the image is augmented at all.
        operations: Names of the operations to draw from, see `OPERATIONS`; the 14 of torchvision if
            not given.
    """

    name: ClassVar[str] = "rand_augment"
    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    p: float = 1.0
    operations: tuple[str, ...] = _OF_TORCHVISION

    def __post_init__(self) -> None:
        check_count("num_ops", self.num_ops)
        check_count("num_magnitude_bins", self.num_magnitude_bins, least=2)
        check_count("magnitude", self.magnitude, least=0)
        check_probability(self.p)
        if self.magnitude >= self.num_magnitude_bins:
            raise ValueError(
                f"rand_augment magnitude is {self.magnitude}, "
                f"expected 0 <= magnitude < num_magnitude_bins = {self.num_magnitude_bins}"
            )

        unknown = set(self.operations) - set(operation_names())
        if unknown or not self.operations:
            raise ValueError(
                f"rand_augment operations are {list(self.operations)}, expected some of "
                f"{list(operation_names())}"
            )

    @property
    def field(self) -> Field:
        """``ops``: one uint8 per operation."""
        return Field("ops", "<u1", (self.num_ops,))

    def sample(self, rng: np.random.Generator, size: Size) -> Params:
        """Draw operations uniformly, with a sign for signed ones."""
        if rng.random() >= self.p:
            return (0,) * self.num_ops
        drawn = rng.integers(0, len(self.operations), self.num_ops).tolist()
        signs = rng.integers(0, 2, self.num_ops).tolist()
        numbers = [_NUMBERS[self.operations[position]] for position in drawn]
        return tuple(
            number | (NEGATIVE if sign and OPERATIONS[number].signed else 0)
            for number, sign in zip(numbers, signs, strict=True)
        )

    def apply(self, image: AnyImage, params: Params) -> AnyImage:
        """Return the image after the operations in ``params``, in order."""
        for code in params:
            image = self._apply_one(image, code)
        return image

    def apply_batch(self, images: torch.Tensor, params: np.ndarray) -> torch.Tensor:
        """Return the images after the operations in ``params``, ``[B, num_ops]``."""
        for codes in params.T:
            images = self._apply_round(images, codes)
        return images

    def _apply_round(self, images: torch.Tensor, codes: np.ndarray) -> torch.Tensor:
        """Apply one operation to each image, batching images with the same operation."""
        order = np.argsort(codes, kind="stable")
        found, starts = np.unique(codes[order], return_index=True)
        index = upload(order, images.device)
        grouped = images.index_select(0, index)
        stops = [*starts[1:].tolist(), len(codes)]
        for code, start, stop in zip(found.tolist(), starts.tolist(), stops, strict=True):
            done = self._apply_one(grouped[start:stop], code)
            grouped[start:stop] = cast(torch.Tensor, done)
        return torch.empty_like(images).index_copy_(0, index, grouped)

    def matrices(self, params: Params, size: Size) -> Sequence[np.ndarray]:
        """Return one matrix for each operation that moves pixels."""
        decoded = [self._decode(code, size) for code in params]
        return [op.forward(magnitude, size) for op, magnitude in decoded if op.matrix is not None]

    def describe(self, params: Params) -> Sequence[str]:
        """Return the names of the operations, with a minus where the magnitude is negative."""
        return [_signed_name(code) for code in params if code]

    def _apply_one(self, image: AnyImage, code: int) -> AnyImage:
        operation, magnitude = self._decode(code, kernels_for(image).size(image))
        return operation.apply(image, magnitude)

    def _decode(self, code: int, size: Size) -> tuple[Operation, float]:
        """The operation of a code and its signed magnitude."""
        operation = OPERATIONS[code & ~NEGATIVE]
        magnitude = operation.magnitude(self.magnitude, self.num_magnitude_bins, size)
        return operation, -magnitude if code & NEGATIVE else magnitude


def _signed_name(code: int) -> str:
    sign = "−" if code & NEGATIVE else ""
    return sign + OPERATIONS[code & ~NEGATIVE].name
