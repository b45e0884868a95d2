"""Teachers from timm: ``timm:NAME``, ``timm:NAME@CHECKPOINT``."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from dr_models.checkpoints.network_name import script_options
from dr_models.checkpoints.network_record import options_of_train_py
from dr_plugins.errors import TeacherError

# In names of models on the hub, `@` precedes a revision.
_HUB = ("hf-hub:", "hf_hub:")
# All that timm's models use; torchvision antialiases tensors with these only.
_INTERPOLATIONS = ("bilinear", "bicubic")
_IMAGE_OPTIONS = ("img_size", "input_size", "mean", "std", "interpolation", "in_chans")


class TimmTeacher(nn.Module):
    """A timm model that takes uint8 views of any size.

    Views are resized to the model's size, antialiased, with the model's interpolation, and not
    cropped: ``crop_pct`` is for the centre of photographs, and the student sees the whole view.

    Args:
        model: From `timm.create_model`; its data configuration sets size, interpolation, mean and
            std.
        channels_last: Run it in channels-last memory format, which is faster for convolutions.
        options: train.py's options for images (``img_size``, ``mean``, ``std``,
            ``interpolation``), which come before the model's own.

    Raises:
        TeacherError: The model does not take RGB images, or its interpolation is not supported.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        channels_last: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
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
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
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
        logits: torch.Tensor = self.model(images.contiguous(memory_format=self.memory_format))
        return logits


def load_timm_teacher(rest: str) -> TimmTeacher:
    """Build the teacher of a specification ``timm:REST``.

    Import code that registers your own models with timm before.

    Args:
        rest: ``NAME`` for pretrained weights, or ``NAME@CHECKPOINT`` for those of a file
            (``.safetensors``, or a checkpoint of timm's ``train.py``; averaged weights first, and
            with the image size, the normalization and ``--model-kwargs`` that it was trained with).

    Returns:
        The teacher, in evaluation mode.

    Raises:
        TeacherError: Unknown model, missing weights or file, or a file that does not fit the model.
    """
    name, at, checkpoint = rest.partition("@")
    if rest.startswith(_HUB):
        name, at, checkpoint = rest, "", ""
    _check_name(name, rest)
    if not at:
        return TimmTeacher(_pretrained(name, rest))
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise TeacherError(
            f"teacher timm:{rest}: no such file: {path}; expected timm:NAME@CHECKPOINT with a "
            f".safetensors file or a checkpoint of timm's train.py"
        )
    return _from_checkpoint(name, path, rest)


def _check_name(name: str, rest: str) -> None:
    if name.startswith((*_HUB, "local-dir:")) or timm.is_model(name):
        return
    nearest = get_close_matches(name, timm.list_models(), 3, 0.5)
    raise TeacherError(
        f"teacher timm:{rest}: timm {timm.__version__} has no model {name!r}"
        + (f"; the nearest are {', '.join(nearest)}" if nearest else "")
        + ". Import your own models before, to register them."
    )


def _pretrained(name: str, rest: str) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # timm 1.0.31 takes ig_resnext101_32x48d for a network of a tenth of its size.
            warnings.filterwarnings("error", "Mapping deprecated model name", UserWarning)
            model = timm.create_model(name, pretrained=True)
    except UserWarning as warning:
        raise TeacherError(
            f"teacher timm:{rest}: the name is out of date, and timm {timm.__version__} may take "
            f"it for another network: {warning} If that is the teacher you mean, give its name"
        ) from warning
    # Without network, timm, its hub client and torch.hub raise many types.
    except Exception as error:
        raise TeacherError(
            f"teacher timm:{rest}: its pretrained weights cannot be loaded: {error}. Check the "
            f"network, or give a file: timm:{name}@CHECKPOINT"
        ) from error
    return model


def _from_checkpoint(name: str, path: Path, rest: str) -> TimmTeacher:
    try:
        # train.py saves its arguments with the weights; timm before 1.0.28 cannot load them.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = load_state_dict(str(path), weights_only=True)
        saved = _saved_arguments(path)
        options = options_of_train_py(saved) or {}
        model = timm.create_model(name, **options)
        classes = _count_classes(model, state)
        if classes not in (None, model.num_classes):
            model = timm.create_model(name, num_classes=classes, **options)
        model.load_state_dict(state, strict=True)
    # A damaged file, a foreign pickle, another architecture: libraries raise many types.
    except Exception as error:
        raise TeacherError(
            f"teacher timm:{rest}: {path} cannot be loaded into {name}: {error}. Give the weights "
            f"of this model, as a state dict of tensors only"
        ) from error
    return TimmTeacher(model, options={n: saved[n] for n in _IMAGE_OPTIONS if saved.get(n)})


def _saved_arguments(path: Path) -> Mapping[str, Any]:
    """The options that train.py saved with the weights; empty for other files."""
    if path.suffix == ".safetensors":
        return {}
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    return script_options(checkpoint) if isinstance(checkpoint, dict) else {}


def _count_classes(model: Any, state: dict[str, torch.Tensor]) -> int | None:
    """Rows of the classifier in a checkpoint; None if there is none."""
    names = model.pretrained_cfg.get("classifier") or ()
    for name in [names] if isinstance(names, str) else names:
        if f"{name}.weight" in state:
            return state[f"{name}.weight"].shape[0]
    return None
