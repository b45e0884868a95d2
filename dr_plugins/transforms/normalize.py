"""Normalization of uint8 pixels for a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return ``(images / 255 - mean) / std``.

    Args:
        images: uint8 ``[..., C, H, W]``, values 0 to 255.
        mean: One value per channel, in units of full scale (0 to 1).
        std: One positive value per channel, in the same units.

    Returns:
        float32, the shape of `images`.

    Example:
        >>> normalize(torch.full((1, 2, 2), 255, dtype=torch.uint8), [0.5], [0.5]).unique().item()
        1.0
    """
    shape = (-1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    return images.float().div_(255).sub_(centre).div_(scale)
