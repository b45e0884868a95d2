"""Any network of timm as a backbone of MMDetection and MMSegmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from dr_plugins.checkpoints import InputConvention

__all__ = ["TimmFeatures"]


@MODELS.register_module()
class TimmFeatures(BaseModule):
    """The features of a timm network: `dr_models.FeatureBackbone`, in OpenMMLab's terms.

    For what MMDetection and MMSegmentation do not have, or not with the same layout: ResNet-50-D,
    the CVNets networks, MobileNetV3, MobileViT, EfficientNet, ViT, Swin.

    Args:
        model: A model of timm, or one of `dr_models` (``cvnets_resnet50``).
        out_indices: Which of timm's features, from 0, negative ones from the end; by default those
            with a stride of 4 and more, and for networks of one scale (ViT) the last.
        frozen_stages: -1 trains all, 0 freezes the stem, k the first k stages besides.
        norm_eval: Keep batch normalisation in evaluation mode.
        with_cp: Compute activations again in the backward pass, to save memory.
        init_cfg: ``dict(type="Pretrained", checkpoint="imagenet-plus://PATH")``, or None where
            `ReinforcedBackboneHook` loads the weights.
        **kwargs: For `timm.create_model`: ``drop_path_rate``, ``output_stride``, ``img_size`` ...

    Attributes:
        body: The `FeatureBackbone`.
        channels: Of each feature; ``in_channels`` of the neck or head.
        strides: Of each feature, in pixels.

    Raises:
        BackboneError: See `FeatureBackbone`.
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
        init_cfg: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg)
        from dr_models import FeatureBackbone

        self.body = FeatureBackbone(
            model,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            grad_checkpointing=with_cp,
            **kwargs,
        )
        self.channels, self.strides = self.body.channels, self.body.strides

    @property
    def convention(self) -> InputConvention:
        """The images that timm feeds this model."""
        return self.body.convention

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map normalised images ``[B, 3, H, W]`` to features ``[B, C_i, H / s_i, W / s_i]``.

        Raises:
            CheckpointError: In training, if stages are frozen that nothing was loaded into.
        """
        features: tuple[torch.Tensor, ...] = self.body(inputs)
        return features
