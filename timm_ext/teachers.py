"""Teachers from timm: ``timm:NAME``, ``timm:NAME@CHECKPOINT``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.data import resolve_model_data_config
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from dr_models.timm_models import trained_network
from dr_plugins.errors import ReinforcementError, TeacherError

# All that timm's models use; torchvision antialiases tensors with these only.
_INTERPOLATIONS = ("bilinear", "bicubic")


class TimmTeacher(nn.Module):
    """A timm model that takes uint8 views of any size.

    Views are resized to the model's size, antialiased, with the model's interpolation, and not
    cropped: ``crop_pct`` is for the centre of photographs, and the student sees the whole view.

    Args:
        model: From `timm.create_model`; its data configuration sets size, interpolation, mean and
            std.
        options: What its checkpoint records of its images (``input_size``, ``mean``, ``std``,
            ``interpolation``), which comes before the model's own.

    Raises:
        TeacherError: The model does not take RGB images, or its interpolation is not supported.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        config = resolve_model_data_config(model, dict(options or {}))
        channels, height, width = config["input_size"]
        if channels != 3:
            raise TeacherError(
                f"the model takes {channels} channels, but views have 3; use a model for RGB images"
            )
        if config["interpolation"] not in _INTERPOLATIONS:
            raise TeacherError(
                f"the model's interpolation is {config['interpolation']!r}; expected one of "
                f"{', '.join(_INTERPOLATIONS)}. Set it in the model's pretrained_cfg"
            )
        self.size = (height, width)
        self.interpolation = InterpolationMode(config["interpolation"])
        # In channels-last memory, convolutions are faster.
        self.model = model.to(memory_format=torch.channels_last)
        # As buffers, they are part of the digest of the weights.
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(config[name]).view(1, 3, 1, 1))
        self.eval()

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Map uint8 views ``[B, 3, H, W]`` to logits ``[B, C]``."""
        images = views.to(self.mean.dtype)
        if tuple(views.shape[-2:]) != self.size:
            images = transforms.resize(images, list(self.size), self.interpolation, antialias=True)
            images = images.clamp(0, 255)  # bicubic overshoots at edges
        images = (images / 255 - self.mean) / self.std
        logits: torch.Tensor = self.model(images.contiguous(memory_format=torch.channels_last))
        return logits


def load_timm_teacher(rest: str) -> TimmTeacher:
    """Build the teacher of a specification ``timm:REST``.

    Import code that registers your own models with timm before.

    Args:
        rest: ``NAME`` for pretrained weights, or ``NAME@CHECKPOINT`` for those of a file
            (see `dr_models.checkpoints.load_checkpoint`; averaged weights first, and with the image
            size, the normalization and ``--model-kwargs`` that it was trained with, as far as it
            records them).

    Returns:
        The teacher, in evaluation mode.

    Raises:
        TeacherError: Unknown model, missing weights or file, or a file that does not fit the model.
    """
    try:
        network, recorded = trained_network(rest)
    except ReinforcementError as error:
        raise TeacherError(f"teacher timm:{rest}: {error}") from error
    return TimmTeacher(network, options=recorded)
