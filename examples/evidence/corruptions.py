"""Common corruptions of small images at five severities.

Six of those of Hendrycks and Dietterich, 2019 (arXiv 1903.12261), with the strengths of their
CIFAR-10-C, whose images have 32 pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

SEVERITIES = range(5)


def _noise(x: Tensor, sigma: float, rng: torch.Generator) -> Tensor:
    return x + sigma * torch.randn(x.shape, generator=rng)


def _impulse(x: Tensor, share: float, rng: torch.Generator) -> Tensor:
    drawn = torch.rand(x.shape, generator=rng)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn > 1 - share / 2, 1.0, x))


def _blur(x: Tensor, sigma: float, rng: torch.Generator) -> Tensor:
    return gaussian_blur(x, [9, 9], [sigma, sigma])


def _contrast(x: Tensor, factor: float, rng: torch.Generator) -> Tensor:
    mean = x.mean((-2, -1), keepdim=True)
    return (x - mean) * factor + mean


def _brightness(x: Tensor, added: float, rng: torch.Generator) -> Tensor:
    return x + added


def _pixelate(x: Tensor, scale: float, rng: torch.Generator) -> Tensor:
    side = int(x.shape[-1] * scale)
    return F.interpolate(F.interpolate(x, size=side, mode="area"), size=x.shape[-2:])


_Function = Callable[[Tensor, float, torch.Generator], Tensor]
CORRUPTIONS: dict[str, tuple[_Function, tuple[float, ...]]] = {
    "gaussian noise": (_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "impulse noise": (_impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian blur": (_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
}


def corrupt(pixels: Tensor, name: str, severity: int) -> Tensor:
    """Corrupt grey images, the same way each time.

    Args:
        pixels: uint8 ``[N, 3, H, W]`` with equal channels.
        name: Of `CORRUPTIONS`.
        severity: Of `SEVERITIES`, 0 to 4.
    """
    function, strengths = CORRUPTIONS[name]
    rng = torch.Generator().manual_seed(severity)
    grey = function(pixels[:, :1] / 255, strengths[severity], rng)
    return (grey.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
