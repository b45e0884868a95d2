"""CVNets' ViT: a convolutional stem, and no position for the class token."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import HybridEmbed
from timm.models import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

from dr_models.families.timm_parts import default_configs, from_cvnets, register_models
from dr_models.families.vit.family import FAMILY

default_cfgs = default_configs(
    FAMILY,
    pool_size=None,
    fixed_input_size=True,
    first_conv="patch_embed.backbone.0.conv",
    classifier="head",
)


class ConvStemEmbed(HybridEmbed):
    """Three convolutions that compute one token per 16×16 pixels.

    The first has padding 1, unlike timm's `vit_base_mci_224`, which has the same keys.

    Args:
        in_chans: Number of channels of the image.
        embed_dim: Width of the tokens; the first two convolutions have a quarter of it.
        patch_size: Must be 16, the product of the strides.
        bias: Passed by timm and ignored; the last convolution always has a bias.
        **kwargs: For `timm.layers.HybridEmbed`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        embed_dim: int = 768,
        patch_size: int = 16,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        assert patch_size == 16
        width = max(32, embed_dim // 4)
        place = {name: kwargs[name] for name in ("device", "dtype") if name in kwargs}
        stem = ConvStem(
            in_chans,
            channels=(width, width, embed_dim),
            kernel_size=(4, 2, 2),
            stride=(4, 2, 2),
            padding=(1, 0, 0),
            act_layer=nn.GELU,
            **place,
        )
        super().__init__(stem, in_chans=in_chans, embed_dim=embed_dim, proj=False, **kwargs)


def _filter(state: dict[str, Any], model: VisionTransformer) -> dict[str, torch.Tensor]:
    fitted: dict[str, torch.Tensor] = checkpoint_filter_fn(from_cvnets(FAMILY, state, model), model)
    return fitted


def _create(variant: str, width: int, heads: int, pretrained: bool, **kwargs: Any) -> nn.Module:
    kwargs.setdefault("img_size", int(variant.rpartition("_")[2]))
    model: nn.Module = build_model_with_cfg(
        VisionTransformer,
        variant,
        pretrained,
        pretrained_filter_fn=_filter,
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        embed_layer=ConvStemEmbed,
        embed_dim=width,
        depth=12,
        num_heads=heads,
        no_embed_class=True,
        **kwargs,
    )
    return model


register_models(
    _create,
    {
        "cvnets_vit_tiny_patch16_224": (192, 3),
        "cvnets_vit_small_patch16_224": (384, 6),
        "cvnets_vit_base_patch16_224": (768, 12),
        "cvnets_vit_base_patch16_384": (768, 12),
    },
)
