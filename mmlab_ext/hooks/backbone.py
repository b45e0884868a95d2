"""The hook that gives a detector or segmentor its pretrained backbone."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from dr_plugins.checkpoints import (
    BackboneWeights,
    CheckpointLocation,
    InputConvention,
    check_convention,
)
from dr_plugins.errors import ReinforcementError
from mmlab_ext.classifier import TimmClassifier
from mmlab_ext.errors import ConfigError
from mmlab_ext.images import decodes_to_bgr
from mmlab_ext.loading import load_into
from mmlab_ext.messages import describe
from mmlab_ext.preprocessor import TimmDataPreprocessor

__all__ = ["ReinforcedBackboneHook"]

_NAME = "custom_hooks: ReinforcedBackboneHook"


@HOOKS.register_module()
class ReinforcedBackboneHook(Hook):
    """Loads a checkpoint into ``model.backbone`` before training, whole or not at all.

    Sets nothing else: neither mean and std, which are compared, nor what is frozen. It loads after
    every ``init_cfg`` and before the first step, and not when a run is resumed. Of a
    `TimmClassifier` it loads all but the last layer.

    Args:
        checkpoint: A path, or ``imagenet-plus://PATH`` with options.
        source: Whose layout: ``auto``, ``cvnets``, ``timm`` or ``torchvision``.
        arch: The network, where the checkpoint does not tell; see `CheckpointLocation`.
        check_inputs: Compare the model's data preprocessor with what the network was trained on;
            switch it off where the pipeline normalises.

    Raises:
        ConfigError: Before training: the config contradicts itself.
        CheckpointError: Before training: the checkpoint does not fit.

    Example:
        A config of MMDetection or MMSegmentation::

            custom_imports = dict(imports=["mmlab_ext"])
            model = dict(backbone=dict(init_cfg=None))
            custom_hooks = [dict(type="ReinforcedBackboneHook", checkpoint="resnet50.safetensors")]
    """

    priority = "VERY_HIGH"

    def __init__(
        self,
        checkpoint: str,
        source: str = "auto",
        arch: str | None = None,
        check_inputs: bool = True,
    ) -> None:
        try:
            self.location = CheckpointLocation.parse(checkpoint, source=source, arch=arch)
        except ReinforcementError as error:
            raise ConfigError(f"{_NAME}: {error}") from error
        self.checkpoint = checkpoint
        self.check_inputs = check_inputs
        self._loaded_by_runner = False

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Remember that the whole model came from elsewhere."""
        self._loaded_by_runner = True

    # Not before_run: that is before the model's own init_cfg.
    def before_train(self, runner: Any) -> None:
        """Load the backbone."""
        if self._loaded_by_runner:
            self._leave(runner)
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone = self._find(model)
        try:
            weights = load_into(backbone, self.location)
            if self.check_inputs:
                _check_inputs(model, weights.convention)
                _check_channels(model, runner.train_dataloader.dataset)
        except ReinforcementError as error:
            raise type(error)(f"{_NAME}.checkpoint: {error}") from error
        runner.logger.info(f"ReinforcedBackboneHook: {_describe(weights, self.checkpoint)}")

    def _leave(self, runner: Any) -> None:
        if not runner._resume:
            raise ConfigError(
                f"load_from gives weights for the whole model, and {_NAME} for its backbone; "
                f"remove one of the two"
            )
        runner.logger.info("ReinforcedBackboneHook: training is resumed, nothing was loaded")

    def _find(self, model: nn.Module) -> nn.Module:
        if isinstance(model, TimmClassifier):
            return model
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise ConfigError(
                f"{_NAME}: model.type is {type(model).__name__}, which has no backbone; remove the "
                f"hook, or use a detector, a segmentor or TimmClassifier"
            )
        if isinstance(backbone, TimmClassifier):
            raise ConfigError(
                f"model.backbone.type is TimmClassifier, whose classifier is in the way; use "
                f"dict(type='TimmFeatures', model={backbone.arch!r})"
            )
        return backbone


def _describe(weights: BackboneWeights, checkpoint: str) -> str:
    return f"model.backbone is {describe(weights, checkpoint)}"


def _check_inputs(model: Any, convention: InputConvention) -> None:
    preprocessor, host = model.data_preprocessor, "model.data_preprocessor"
    mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
    if mean is None or std is None:
        expected = [list(values) for values in convention.for_range(255)]
        raise ConfigError(
            f"{host} does not normalise, but the checkpoint was trained on RGB images with mean "
            f"{expected[0]} and std {expected[1]}; set these and bgr_to_rgb=True. Where the "
            f"pipeline normalises, set check_inputs=False"
        )
    converts = _gives_rgb(preprocessor)
    if not converts:
        host = f"{host} (with bgr_to_rgb=False)"
    check_convention(
        convention,
        [round(float(value), 3) for value in mean.flatten()],
        [round(float(value), 3) for value in std.flatten()],
        top=255,
        bgr=not converts,
        host=host,
    )


def _check_channels(model: Any, dataset: Any) -> None:
    if isinstance(model.data_preprocessor, TimmDataPreprocessor) and decodes_to_bgr(dataset):
        raise ConfigError(
            "train_dataloader.dataset.pipeline decodes to BGR, which TimmDataPreprocessor takes "
            "for RGB; use dict(type='ImageFolder', root=...), whose root may be this config"
        )


def _gives_rgb(preprocessor: Any) -> bool:
    """OpenMMLab decodes to BGR, and its preprocessors convert if they are told to."""
    if isinstance(preprocessor, TimmDataPreprocessor):
        return True
    # The second name is that of MMSegmentation 1.2.
    for name in ("_channel_conversion", "channel_conversion"):
        if hasattr(preprocessor, name):
            return bool(getattr(preprocessor, name))
    raise ConfigError(
        f"model.data_preprocessor.type is {type(preprocessor).__name__}, which does not tell "
        f"whether it converts BGR to RGB; use the framework's own, or set check_inputs=False"
    )
