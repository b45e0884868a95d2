"""Checks that a model's input format is the one its checkpoint was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from d2_ext.log import logger
from dr_models.checkpoints import InputConvention, check_convention
from dr_plugins.errors import CheckpointError

_TOP = 255  # Detectron2's images
# Attributes in which Detectron2's data loaders, datasets and wrappers hold what they wrap.
_WRAPPED = ("dataset", "_dataset", "_map_func", "_obj")


def check_inputs(
    model: nn.Module,
    convention: InputConvention,
    address: str,
    trainer: Any = None,
    backbone: str = "",
) -> None:
    """Refuse a model whose input format differs from the checkpoint's.

    Mean and std are taken from the meta architecture around the backbone; the channel order from
    the model, its backbone, and the trainer's configuration and data loader.

    Args:
        model: A meta architecture of Detectron2, or a module that contains one.
        convention: The checkpoint's input format.
        address: The checkpoint's address, for messages.
        trainer: A trainer of Detectron2, if there is one.
        backbone: Name of the backbone in the model.

    Raises:
        CheckpointError: They differ; the message has the values to set.
    """
    formats = dict(_formats(model, trainer))
    wrong = [key for key, value in formats.items() if value != "RGB"]
    if wrong:
        raise CheckpointError(
            f"{wrong[0]} is {formats[wrong[0]]!r}, but {address} was trained on RGB images; set "
            f"{_settings(convention)}"
        )
    if not formats:
        logger.warning(
            "%s was trained on RGB images; the channel order of %s is unknown: set INPUT.FORMAT "
            "to RGB",
            address,
            type(model).__name__,
        )
    mean, std = _mean_and_std(model, backbone)
    if mean is None or std is None:
        logger.warning(
            "%s has no pixel_mean and pixel_std to check; %s was trained with %s",
            type(model).__name__,
            address,
            _settings(convention),
        )
        return
    try:
        check_convention(convention, mean.flatten().tolist(), std.flatten().tolist(), top=_TOP)
    except CheckpointError as error:
        raise CheckpointError(
            f"{address}: {error}. The settings are {_settings(convention)}"
        ) from error


def _mean_and_std(model: nn.Module, backbone: str) -> tuple[Any, Any]:
    """From the innermost module around the backbone that has them."""
    names = backbone.split(".") if backbone else []
    for depth in range(len(names), -1, -1):
        module = model.get_submodule(".".join(names[:depth]))
        mean, std = getattr(module, "pixel_mean", None), getattr(module, "pixel_std", None)
        if mean is not None and std is not None:
            return mean, std
    return None, None


def _settings(convention: InputConvention) -> str:
    mean, std = convention.for_range(_TOP)
    return (
        f"MODEL.PIXEL_MEAN: {list(mean)}, MODEL.PIXEL_STD: {list(std)}, INPUT.FORMAT: RGB (lazy: "
        f"model.pixel_mean, model.pixel_std, model.input_format, and image_format of the mappers "
        f"in dataloader.train and dataloader.test); d2_ext.use_checkpoint(cfg, ...) sets them all"
    )


def _formats(model: nn.Module, trainer: Any) -> Iterator[tuple[str, str]]:
    """All settings of the channel order, and their values."""
    for name, module in model.named_modules():
        value = getattr(module, "input_format", None)
        if isinstance(value, str):
            yield f"input_format of {name or 'the model'} (INPUT.FORMAT)", value
    config = getattr(trainer, "cfg", None)
    if config is not None and hasattr(config, "INPUT"):
        yield "INPUT.FORMAT", config.INPUT.FORMAT
    # DefaultTrainer wraps the trainer with the loader.
    loader = getattr(getattr(trainer, "_trainer", trainer), "data_loader", None)
    value = _image_format(loader)
    if value is not None:
        yield "image_format of the training data's mapper", value


def _image_format(loader: Any) -> str | None:
    pending, seen = [loader], set()
    while pending:
        found = pending.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        value = getattr(found, "image_format", None)
        if isinstance(value, str):
            return value
        pending += [getattr(found, name, None) for name in _WRAPPED]
    return None
