"""Any timm network as a Detectron2 backbone, alone or with a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import nn

from d2_ext.config import timm_node, timm_options
from d2_ext.errors import ConfigError
from d2_ext.norms import convert_norms
from d2_ext.simple_pyramid import SimpleFeaturePyramid
from dr_plugins.errors import BackboneError, CheckpointError

if TYPE_CHECKING:  # timm is an optional extra: imported when a network is built
    from dr_models import FeatureBackbone

SINGLE_SCALE = "last_feat"
"""Detectron2's name for the feature of a single-scale network, such as a ViT."""

_WEIGHTS = "give MODEL.WEIGHTS (lazy: train.init_checkpoint) as imagenet-plus://PATH"
_FEATURES = "give MODEL.DR_TIMM.OUT_FEATURES (lazy: out_features)"
_FREEZING = "give MODEL.BACKBONE.FREEZE_AT (lazy: freeze_at)"
_RESERVED = {
    "pretrained": _WEIGHTS,
    "checkpoint_path": _WEIGHTS,
    "features_only": "it is always set",
    "out_indices": _FEATURES,
    "frozen_stages": _FREEZING,
    "norm_eval": "give MODEL.DR_TIMM.NORM (lazy: norm) as 'FrozenBN'",
}


class TimmBackbone(Backbone):
    """A timm network without classifier, with Detectron2's names for features.

    ``res2`` is the first feature with stride 4 or more, ``res3`` the next and so on, for all
    architectures; single-scale networks (ViT) give ``last_feat``. Images may have any size;
    Detectron2 pads them to multiples of `size_divisibility`. `d2_ext.checkpoints` checks that
    weights were loaded.

    Args:
        model: Name of a timm model, or of one from `dr_models` (``cvnets_resnet50``).
        out_features: Names of the features to return; all if None or empty.
        freeze_at: As in Detectron2: 0 trains all, 1 freezes the stem, k the stem and the first
            k - 1 stages (blocks of single-scale networks), with their batch normalisation.
        norm: ``""`` or ``"BN"`` keep timm's normalisation; ``"FrozenBN"`` or ``"SyncBN"`` convert
            batch normalisation, as in Detectron2's own networks.
        grad_checkpointing: Recompute activations in the backward pass, to save memory.
        **options: For `timm.create_model`, such as ``drop_path_rate`` and ``output_stride``.

    Attributes:
        network: The `dr_models.FeatureBackbone`.
        input_format: Channel order in the configuration it was built from; None without one.

    Raises:
        ConfigError: Unknown `norm` or feature, or an option that another argument sets.
        BackboneError: See `FeatureBackbone`.
        ImportError: timm is not installed.

    Example:
        >>> backbone = TimmBackbone("resnet18", out_features=["res2", "res5"])
        >>> {name: (shape.channels, shape.stride)
        ...  for name, shape in backbone.output_shape().items()}
        {'res2': (64, 4), 'res5': (512, 32)}
        >>> backbone.size_divisibility
        32
    """

    def __init__(
        self,
        model: str,
        *,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        norm: str = "",
        grad_checkpointing: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.input_format = None
        _check_options(options)
        names = _feature_names(model, options)
        chosen = tuple(out_features or names)
        _check_features(model, chosen, names)
        try:
            self.network: FeatureBackbone = _feature_backbone()(
                model,
                out_indices=sorted(names[name] for name in chosen),
                frozen_stages=freeze_at - 1,
                grad_checkpointing=grad_checkpointing,
                **options,
            )
        except BackboneError as error:
            raise ConfigError(
                f"MODEL.BACKBONE.FREEZE_AT (lazy: freeze_at) is {freeze_at}, one more than the "
                f"frozen_stages of timm's networks: {error}"
            ) from error
        convert_norms(self.network, norm)
        self.freeze_at, self.norm = freeze_at, norm
        self._out_features = sorted(chosen, key=names.__getitem__)
        self._out_feature_channels = dict(
            zip(self._out_features, self.network.channels, strict=True)
        )
        self._out_feature_strides = dict(zip(self._out_features, self.network.strides, strict=True))
        self._size_divisibility = max(self.network.strides)

    @property
    def size_divisibility(self) -> int:
        """The largest stride."""
        return self._size_divisibility

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map normalised images ``[B, 3, H, W]`` to features ``[B, C, H / stride, W / stride]``.

        Raises:
            CheckpointError: In training, if frozen layers have no loaded weights.
        """
        if not torch.jit.is_scripting():
            self._refuse_frozen_noise()
        features = self.network(images)
        named: dict[str, torch.Tensor] = {}
        for index, name in enumerate(self._out_features):
            named[name] = features[index]
        return named

    def _refuse_frozen_noise(self) -> None:
        if not self.training or self.network.is_loaded:
            return
        if self.freeze_at > 0 or self.norm == "FrozenBN":
            raise CheckpointError(
                f"no weights were loaded into {self.network.model}, but some of its layers are "
                f"frozen (MODEL.BACKBONE.FREEZE_AT is {self.freeze_at}, MODEL.DR_TIMM.NORM is "
                f"{self.norm!r}). Set MODEL.WEIGHTS (lazy: train.init_checkpoint) to "
                f"imagenet-plus://PATH; to train from scratch, set FREEZE_AT to 0 and NORM to "
                f"'SyncBN' or ''; after copying weights into it, call d2_ext.mark_loaded(model)"
            )


@BACKBONE_REGISTRY.register()
def build_dr_timm_backbone(cfg: Any, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the network of ``MODEL.DR_TIMM`` with the features of ``MODEL.DR_TIMM.OUT_FEATURES``.

    Raises:
        ConfigError: See `TimmBackbone`; or `add_dr_plugins_config` was not called.

    Example:
        >>> from detectron2.config import get_cfg
        >>> from d2_ext import add_dr_plugins_config
        >>> cfg = get_cfg()
        >>> add_dr_plugins_config(cfg)
        >>> cfg.MODEL.DR_TIMM.NAME = "resnet18"
        >>> sorted(build_dr_timm_backbone(cfg, ShapeSpec(channels=3)).output_shape())
        ['res2', 'res3', 'res4', 'res5']
    """
    return _from_config(cfg, input_shape, timm_node(cfg).OUT_FEATURES)


@BACKBONE_REGISTRY.register()
def build_dr_timm_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build the network of ``MODEL.DR_TIMM`` with the feature pyramid of ``MODEL.FPN``.

    Its features are p2 to p6, as in Detectron2's ``build_resnet_fpn_backbone``.

    Raises:
        ConfigError: See `TimmBackbone`; or the network has a single scale.

    Example:
        >>> cfg.MODEL.BACKBONE.NAME = "build_dr_timm_fpn_backbone"  # doctest: +SKIP
    """
    return _fpn(cfg, input_shape, lambda _: LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_dr_retinanet_timm_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Like `build_dr_timm_fpn_backbone`, with RetinaNet's levels p3 to p7.

    Raises:
        ConfigError: See `build_dr_timm_fpn_backbone`.

    Example:
        >>> cfg.MODEL.BACKBONE.NAME = "build_dr_retinanet_timm_fpn_backbone"  # doctest: +SKIP
    """

    def top(bottom_up: TimmBackbone) -> nn.Module:
        last = cfg.MODEL.FPN.IN_FEATURES[-1]
        channels = bottom_up.output_shape()[last].channels
        return LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, last)

    return _fpn(cfg, input_shape, top)


@BACKBONE_REGISTRY.register()
def build_dr_timm_simple_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> SimpleFeaturePyramid:
    """Build the single-scale network (ViT) of ``MODEL.DR_TIMM`` with ViTDet's simple pyramid.

    Raises:
        ConfigError: See `TimmBackbone`; or the network has several scales.

    Example:
        >>> cfg.MODEL.BACKBONE.NAME = "build_dr_timm_simple_fpn_backbone"  # doctest: +SKIP
    """
    timm_node(cfg)
    return SimpleFeaturePyramid(
        _from_config(cfg, input_shape, ()), out_channels=cfg.MODEL.FPN.OUT_CHANNELS
    )


def _from_config(cfg: Any, input_shape: ShapeSpec, features: Sequence[str]) -> TimmBackbone:
    node = timm_node(cfg)
    if input_shape.channels != 3:
        raise ConfigError(
            f"MODEL.PIXEL_MEAN has {input_shape.channels} numbers; expected 3, since the networks "
            f"of MODEL.DR_TIMM take RGB images"
        )
    backbone = TimmBackbone(
        node.NAME,
        out_features=features,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        norm=node.NORM,
        grad_checkpointing=node.GRAD_CHECKPOINTING,
        **timm_options(node),
    )
    backbone.input_format = cfg.INPUT.FORMAT
    return backbone


def _fpn(cfg: Any, input_shape: ShapeSpec, top: Any) -> FPN:
    node, neck = timm_node(cfg), cfg.MODEL.FPN
    names = _feature_names(node.NAME, timm_options(node))
    if list(names) == [SINGLE_SCALE]:
        raise ConfigError(
            f"{node.NAME} has a single scale; set MODEL.BACKBONE.NAME to "
            f"'build_dr_timm_simple_fpn_backbone'"
        )
    if not neck.IN_FEATURES:
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES is empty; expected some of {', '.join(names)}, from high to "
            f"low resolution"
        )
    _check_features(node.NAME, neck.IN_FEATURES, names, "MODEL.FPN.IN_FEATURES")
    bottom_up = _from_config(cfg, input_shape, neck.IN_FEATURES)
    return FPN(
        bottom_up=bottom_up,
        in_features=neck.IN_FEATURES,
        out_channels=neck.OUT_CHANNELS,
        norm=neck.NORM,
        top_block=top(bottom_up),
        fuse_type=neck.FUSE_TYPE,
    )


def _feature_backbone() -> type[FeatureBackbone]:
    from dr_models import FeatureBackbone

    return FeatureBackbone


def _feature_names(model: str, options: dict[str, Any]) -> dict[str, int]:
    """Map Detectron2's names of features to timm's indices."""
    try:
        with torch.device("meta"):
            network = _feature_backbone()(model, **options)
    except BackboneError as error:
        raise ConfigError(
            f"MODEL.DR_TIMM.NAME (lazy: model) is {model!r}, MODEL.DR_TIMM.OPTIONS {options}: "
            f"{error}"
        ) from error
    if len(network.out_indices) == 1:
        return {SINGLE_SCALE: network.out_indices[0]}
    return {f"res{stage}": index for stage, index in enumerate(network.out_indices, start=2)}


def _check_options(options: dict[str, Any]) -> None:
    for name, remedy in _RESERVED.items():
        if name in options:
            raise ConfigError(
                f"MODEL.DR_TIMM.OPTIONS.{name} (lazy: {name}) cannot be set: {remedy}"
            )


def _check_features(
    model: str, chosen: Sequence[str], names: dict[str, int], key: str = ""
) -> None:
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ConfigError(
            f"{key or 'MODEL.DR_TIMM.OUT_FEATURES (lazy: out_features)'} names {unknown[0]!r}; "
            f"{model} has {', '.join(names)}"
        )
