"""Any timm network as a backbone for MMDetection and MMSegmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS

from dr_models.checkpoints import InputConvention
from dr_models.checkpoints.location import SCHEME
from mmlab_ext.errors import ConfigError


def strict_pretrained(init_cfg: Any) -> Any:
    """Return an ``init_cfg`` whose pretrained checkpoints are loaded by our strict initializer."""
    if isinstance(init_cfg, list | tuple):
        return [strict_pretrained(each) for each in init_cfg]
    if not isinstance(init_cfg, dict) or not _is_pretrained(init_cfg.get("type")):
        return init_cfg
    place = str(init_cfg["checkpoint"])
    place = place if place.startswith(SCHEME) else f"{SCHEME}{place}"
    return {**init_cfg, "type": "Pretrained", "checkpoint": place}


def _is_pretrained(kind: Any) -> bool:
    if isinstance(kind, str):
        return kind.rpartition(".")[2] in ("Pretrained", "PretrainedInit")
    return isinstance(kind, type) and issubclass(kind, PretrainedInit)


@MODELS.register_module()
class TimmFeatures(BaseModule):
    """A timm feature extractor: `dr_models.FeatureBackbone` with OpenMMLab's arguments.

    For networks that MMDetection and MMSegmentation do not have, or have in another layout:
    ResNet-50-D, the CVNets networks, MobileNetV3, MobileViT, EfficientNet, ViT, Swin.

    Args:
        model: Name of a timm model, or of one from `dr_models` (``cvnets_resnet50``).
        out_indices: Indices of timm's features, negative ones from the end; by default those with
            stride 4 or more, or the last one for single-scale networks (ViT).
        frozen_stages: -1 trains all, 0 freezes the stem, k the stem and the first k stages.
        norm_eval: Keep batch normalisation in evaluation mode.
        with_cp: Recompute activations in the backward pass, to save memory.
        sync_bn: Synchronise batch normalisation across processes. MMEngine's own ``sync_bn``
            removes activations of some networks, and is refused for those.
        pretrained: Must be None.
        init_cfg: ``dict(type="Pretrained", checkpoint="imagenet-plus://PATH")``, or None if
            `ReinforcedBackboneHook` loads the weights. A plain path is loaded as strictly.
        **kwargs: For `timm.create_model`: ``drop_path_rate``, ``output_stride``, ``img_size``, ...

    Attributes:
        body: The `FeatureBackbone`.
        channels: Of each feature; ``in_channels`` of the neck or head.
        strides: Of each feature, in pixels.

    Raises:
        BackboneError: See `FeatureBackbone`.
        ConfigError: `pretrained` is set.
        ImportError: timm is not installed.

    Example:
        >>> backbone = MODELS.build(dict(type="TimmFeatures", model="resnet18", out_indices=(3, 4)))
        >>> backbone.channels, backbone.strides
        ([256, 512], [16, 32])
    """

    def __init__(
        self,
        model: str,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        sync_bn: bool = False,
        pretrained: None = None,
        init_cfg: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(strict_pretrained(init_cfg))
        if pretrained:
            raise ConfigError(
                f"model.backbone.pretrained (or model.pretrained) is {pretrained!r}; set it to "
                f"None, and give the checkpoint in a ReinforcedBackboneHook or in init_cfg"
            )
        from dr_models import FeatureBackbone

        self.body = FeatureBackbone(
            model,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            grad_checkpointing=with_cp,
            **kwargs,
        )
        if sync_bn:
            from timm.layers import convert_sync_batchnorm

            convert_sync_batchnorm(self.body)
        self.channels, self.strides = self.body.channels, self.body.strides

    @property
    def convention(self) -> InputConvention:
        """Input format of timm for this model."""
        return self.body.convention

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map normalised images ``[B, 3, H, W]`` to features ``[B, C_i, H / s_i, W / s_i]``.

        Raises:
            CheckpointError: In training, if frozen stages have no loaded weights.
        """
        return tuple(self.body(inputs))
