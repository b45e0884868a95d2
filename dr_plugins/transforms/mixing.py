"""Mixup and CutMix in uint8.

Pixels are mixed with 16-bit fixed-point weights: integer arithmetic yields the same bits on every
device, so the student sees exactly what the teacher saw.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dr_plugins.records import Field
from dr_plugins.transforms.base import Params, Size, check_probability
from dr_plugins.transforms.kernels.batch import box_mask, upload

_ONE = 1 << 16


class Mixing(ABC):
    """Combines a view of an image with a view of its partner; see `Transform` for the pattern."""

    name: ClassVar[str]
    unmixed: ClassVar[Params]

    @property
    @abstractmethod
    def field(self) -> Field:
        """The record field that stores the parameters."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, size: Size) -> Params:
        """Draw parameters for views of `size`; equal to `unmixed` if nothing is mixed."""

    @abstractmethod
    def apply(self, image: torch.Tensor, partner: torch.Tensor, params: Params) -> torch.Tensor:
        """Return the mixed view, uint8 ``[3, H, W]``; modifies neither input."""

    @abstractmethod
    def apply_batch(
        self, images: torch.Tensor, partners: torch.Tensor, params: np.ndarray
    ) -> torch.Tensor:
        """Return the mixed views, bit-identical to applying `apply` to each image.

        Args:
            images: uint8 ``[B, 3, H, W]`` on any device; never modified.
            partners: uint8 ``[B, 3, H, W]`` on the same device; never modified.
            params: One entry per image.

        Returns:
            uint8 ``[B, 3, H, W]``.
        """


@dataclass(frozen=True)
class Mixup(Mixing):
    """Blend two views: ``lam * image + (1 - lam) * partner`` (Zhang et al., 2018).

    The parameter is ``lam``, a float; 1.0 if nothing is mixed.

    Attributes:
        alpha: ``lam ~ Beta(alpha, alpha) / div_by``.
        div_by: At least 1; 2 keeps ``lam`` within ``[0, 0.5]``.
        p: Probability of mixing.
    """

    name: ClassVar[str] = "mixup"
    unmixed: ClassVar[Params] = 1.0
    alpha: float = 1.0
    div_by: float = 1.0
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        _check_alpha(self.alpha)
        if not 1 <= self.div_by < math.inf:
            raise ValueError(f"div_by is {self.div_by}, expected at least 1")

    @property
    def field(self) -> Field:
        """``mixup``: one float64."""
        return Field("mixup", "<f8")

    def sample(self, rng: np.random.Generator, size: Size) -> Params:
        """Draw ``lam``."""
        if rng.random() >= self.p or self.alpha == 0:
            return self.unmixed
        return float(rng.beta(self.alpha, self.alpha) / self.div_by)

    def apply(self, image: torch.Tensor, partner: torch.Tensor, params: Params) -> torch.Tensor:
        """Return the blend, rounded to the nearest level."""
        return self._blend(image, partner, round(params * _ONE))

    def apply_batch(
        self, images: torch.Tensor, partners: torch.Tensor, params: np.ndarray
    ) -> torch.Tensor:
        """Return the blends for ``params``, float ``[B]``."""
        weights = np.rint(params * _ONE).astype(np.int32)  # rounds half to even, like `round`
        return self._blend(images, partners, upload(weights, images.device)[:, None, None, None])

    @staticmethod
    def _blend(image: torch.Tensor, partner: torch.Tensor, weight: Any) -> torch.Tensor:
        mixed = image.to(torch.int32).mul_(weight).add_(partner.to(torch.int32).mul_(_ONE - weight))
        return mixed.add_(_ONE // 2).bitwise_right_shift_(16).to(torch.uint8)


@dataclass(frozen=True)
class CutMix(Mixing):
    """Paste a box of the partner's view (Yun et al., 2019).

    Parameters are (top, left, bottom, right); an empty box if nothing is mixed.

    Attributes:
        alpha: The box covers ``1 - lam`` of the view, ``lam ~ Beta(alpha, alpha)``, before it is
            clipped at the border.
        p: Probability of mixing.
    """

    name: ClassVar[str] = "cutmix"
    unmixed: ClassVar[Params] = (0, 0, 0, 0)
    alpha: float = 1.0
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        _check_alpha(self.alpha)

    @property
    def field(self) -> Field:
        """``cutmix``: four uint16."""
        return Field("cutmix", "<u2", (4,))

    def sample(self, rng: np.random.Generator, size: Size) -> Params:
        """Draw a box."""
        if rng.random() >= self.p or self.alpha == 0:
            return self.unmixed
        cut = math.sqrt(1.0 - rng.beta(self.alpha, self.alpha))
        edges = []
        for side in size:
            centre, half = int(rng.integers(side)), int(side * cut) // 2
            edges.append((max(centre - half, 0), min(centre + half, side)))
        (top, bottom), (left, right) = edges
        return (top, left, bottom, right) if bottom > top and right > left else self.unmixed

    def apply(self, image: torch.Tensor, partner: torch.Tensor, params: Params) -> torch.Tensor:
        """Return `image` with the partner's pixels in the box."""
        top, left, bottom, right = params
        mixed = image.clone()
        mixed[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
        return mixed

    def apply_batch(
        self, images: torch.Tensor, partners: torch.Tensor, params: np.ndarray
    ) -> torch.Tensor:
        """Return `images` with the partners' pixels in the boxes ``params``, ``[B, 4]``."""
        return torch.where(box_mask(params, images), partners, images)


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha is {alpha}, expected a number of at least 0")
