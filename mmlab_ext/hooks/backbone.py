"""The hook that loads the pretrained backbone of a detector or segmentor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.registry import HOOKS
from torch import nn

from dr_models.checkpoints import CheckpointLocation, InputConvention, check_convention
from dr_plugins.errors import ReinforcementError
from mmlab_ext.classifier import TimmClassifier
from mmlab_ext.errors import ConfigError
from mmlab_ext.features import TimmFeatures
from mmlab_ext.hooks.inputs import InputsHook, bare_model, bare_preprocessor
from mmlab_ext.loading import load_parts
from mmlab_ext.pipelines import decodes_to_bgr
from mmlab_ext.preprocessor import TimmDataPreprocessor
from mmlab_ext.resnets import is_native, is_shared_head

_NAME = "ReinforcedBackboneHook"


@HOOKS.register_module()
class ReinforcedBackboneHook(InputsHook):
    """Loads a whole checkpoint into ``model.backbone`` before training, or raises.

    It loads after every ``init_cfg`` and before the first step; a resumed run loads nothing. For a
    `TimmClassifier` it loads all but the last layer. The stage that C4 models of MMDetection keep
    in ``roi_head.shared_head`` is loaded with the backbone. Nothing else is set: mean and std are
    only compared, and freezing is up to the config.

    Args:
        checkpoint: A path, or ``imagenet-plus://PATH`` with options.
        source: Layout: ``auto``, ``cvnets``, ``timm`` or ``torchvision``.
        arch: The network, if the checkpoint does not say; see `CheckpointLocation`.
        check_inputs: Compare the data preprocessor with the images that the network was trained on,
            and refuse images normalised by the pipeline. False if the pipeline should normalise.
        module: Name of the backbone in the model, such as ``student.backbone``.
        new_keys: Names of the model's tensors, with wildcards (``*.conv_offset.*``), that may be
            missing in the checkpoint and keep their values: for deformable convolutions and
            ``plugins``.

    Raises:
        ConfigError: Before training: contradictory settings, or images normalised twice.
        CheckpointError: Before training: the checkpoint does not fit.

    Example:
        A config of MMDetection or MMSegmentation. ``default_hooks``, unlike ``custom_hooks``, keeps
        the base config's hooks::

            custom_imports = dict(imports=["mmlab_ext"])
            model = dict(backbone=dict(init_cfg=None))
            default_hooks = dict(
                backbone=dict(type="ReinforcedBackboneHook", checkpoint="resnet50.safetensors")
            )
    """

    priority = "VERY_HIGH"

    def __init__(
        self,
        checkpoint: str,
        source: str = "auto",
        arch: str | None = None,
        check_inputs: bool = True,
        module: str = "backbone",
        new_keys: Sequence[str] = (),
    ) -> None:
        try:
            self.location = CheckpointLocation.parse(checkpoint, source=source, arch=arch)
        except ReinforcementError as error:
            raise ConfigError(f"{_NAME}: {error}") from error
        self.checkpoint = checkpoint
        self.check_inputs = check_inputs
        self.module = module
        self.new_keys = [new_keys] if isinstance(new_keys, str) else list(new_keys)
        self._loaded_by_runner = False

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Note that the runner has loaded the whole model."""
        self._loaded_by_runner = True

    # Not before_run, which precedes the model's own init_cfg.
    def before_train(self, runner: Any) -> None:
        """Load the backbone."""
        super().before_train(runner)
        if self._loaded_by_runner:
            self._leave(runner)
            return
        model = bare_model(runner)
        name, backbone = self._find(model)
        try:
            parts = _parts(model, name, backbone)
            loaded = load_parts(parts, self.location, new_keys=self.new_keys)
            if self.check_inputs:
                _check_inputs(model, loaded[name].convention)
                _check_channels(model, runner.train_dataloader.dataset)
        except ReinforcementError as error:
            raise type(error)(f"{_NAME}.checkpoint: {error}") from error
        for key, each in loaded.items():
            runner.logger.info(f"{_NAME}: model.{key} is {each.describe(self.checkpoint)}")
        others = [key for key, _ in _backbones(model) if key not in loaded]
        if others:
            runner.logger.warning(
                f"{_NAME}: nothing was loaded into model.{', model.'.join(others)}; unless "
                f"something else loads it, set `module` of another {_NAME} to it, or give it an "
                f"init_cfg"
            )

    def _leave(self, runner: Any) -> None:
        if not runner._resume:
            raise ConfigError(
                f"load_from loads the whole model, and {_NAME} its backbone; remove one of the two"
            )
        runner.logger.info(f"{_NAME}: training is resumed, nothing was loaded")

    def _find(self, model: nn.Module) -> tuple[str, nn.Module]:
        if isinstance(model, TimmClassifier):
            return "model", model
        modules = dict(model.named_modules())
        backbone = modules.get(self.module)
        if backbone is None:
            names = [name for name, _ in _backbones(model)]
            raise ConfigError(
                f"{_NAME}: model.type is {type(model).__name__}, which has no {self.module}; "
                + (f"set module to one of {names}" if names else "no module of it is a backbone")
            )
        if isinstance(backbone, TimmClassifier):
            raise ConfigError(
                f"model.{self.module}.type is TimmClassifier, which returns logits, not features; "
                f"use dict(type='TimmFeatures', model={backbone.arch!r})"
            )
        return self.module, backbone


def _parts(model: nn.Module, name: str, backbone: nn.Module) -> dict[str, nn.Module]:
    """The backbone, and its stages elsewhere in the same detector."""
    owner = name.rpartition(".")[0]
    prefix = f"{owner}." if owner else ""
    stages = {
        key: part
        for key, part in model.named_modules()
        if key.startswith(prefix) and is_shared_head(part)
    }
    return {name: backbone, **stages}


def _backbones(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that a checkpoint could be loaded into, with their names."""
    for name, part in model.named_modules():
        if isinstance(part, TimmFeatures) or is_native(part):
            yield name, part


def _check_inputs(model: Any, convention: InputConvention) -> None:
    preprocessor, host = bare_preprocessor(model), "model.data_preprocessor"
    mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
    if mean is None or std is None:
        expected = [list(values) for values in convention.for_range(255)]
        raise ConfigError(
            f"{host} does not normalise, but the checkpoint was trained on RGB images with mean "
            f"{expected[0]} and std {expected[1]}; set these and bgr_to_rgb=True. If the pipeline "
            f"normalises, set check_inputs=False"
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
            "for RGB; use dict(type='ImageFolder', root=...), where root may be this dataset's "
            "config"
        )


def _gives_rgb(preprocessor: Any) -> bool:
    """OpenMMLab decodes to BGR; its preprocessors convert to RGB if configured to."""
    if isinstance(preprocessor, TimmDataPreprocessor):
        return True
    # The second name is MMSegmentation 1.2's.
    for name in ("_channel_conversion", "channel_conversion"):
        if hasattr(preprocessor, name):
            return bool(getattr(preprocessor, name))
    raise ConfigError(
        f"model.data_preprocessor.type is {type(preprocessor).__name__}, which has no attribute "
        f"that says whether it converts BGR to RGB; use the framework's own, or set "
        f"check_inputs=False"
    )
