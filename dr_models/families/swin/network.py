"""CVNets' Swin: a padded patch embedding without bias, and padding before the shift."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models import build_model_with_cfg
from timm.models.swin_transformer import (
    SwinTransformer,
    SwinTransformerBlock,
    checkpoint_filter_fn,
)
from torch import nn
from torch.nn import functional as F

from dr_models.families.swin.family import FAMILY
from dr_models.families.timm_parts import default_configs, from_cvnets, register_models

default_cfgs = default_configs(
    FAMILY,
    pool_size=(7, 7),
    fixed_input_size=True,
    first_conv="patch_embed.proj",
    classifier="head.fc",
)


class PaddedPatchEmbed(PatchEmbed):
    """timm's patch embedding with padding 1 and without bias; see there for the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "bias": False})
        assert isinstance(self.proj, nn.Conv2d)
        self.proj.padding = (1, 1)


class PadFirstBlock(SwinTransformerBlock):
    """A block that pads to whole windows before it shifts, as the authors' code does.

    timm shifts first, which puts the padding elsewhere. Without padding, as at 224×224, both are
    the same. A map that fits in one window is not shifted.
    """

    # Overrides this and not `_attn` because TorchScript does not support super().
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, H, W, C]`` to the same shape."""
        batch, height, width, channels = x.shape
        x = x + self.drop_path1(self.attend(self.norm1(x)))
        tokens = x.reshape(batch, -1, channels)
        tokens = tokens + self.drop_path2(self.mlp(self.norm2(tokens)))
        return tokens.reshape(batch, height, width, channels)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Apply attention within shifted windows to ``[B, H, W, C]``."""
        height, width = x.shape[1], x.shape[2]
        rows, columns = self.window_size[0], self.window_size[1]
        below, right = (rows - height % rows) % rows, (columns - width % columns) % columns
        padded = F.pad(x, (0, 0, 0, right, 0, below))
        if self.dynamic_mask:
            # timm decides this once, for the size that the network was built for.
            down, across = self.target_shift_size[0], self.target_shift_size[1]
            self.shift_size = (
                0 if height <= rows else down,
                0 if width <= columns else across,
            )
        return self._attn(padded)[:, :height, :width].contiguous()


class CVNetsSwinTransformer(SwinTransformer):
    """timm's Swin transformer with the differences above; see there for the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "embed_layer": PaddedPatchEmbed})
        for block in self.modules():
            # timm's stages fix their block class; only the forward pass differs here.
            if type(block) is SwinTransformerBlock:
                block.__class__ = PadFirstBlock


def _filter(state: dict[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    fitted: dict[str, torch.Tensor] = checkpoint_filter_fn(from_cvnets(FAMILY, state, model), model)
    return fitted


def _create(
    variant: str, width: int, blocks: int, heads: int, pretrained: bool, **kwargs: Any
) -> nn.Module:
    kwargs.setdefault("img_size", int(variant.rpartition("_")[2]))
    model: nn.Module = build_model_with_cfg(
        CVNetsSwinTransformer,
        variant,
        pretrained,
        pretrained_filter_fn=_filter,
        feature_cfg={
            "flatten_sequential": True,
            "out_indices": kwargs.pop("out_indices", (0, 1, 2, 3)),
        },
        embed_dim=width,
        depths=(2, 2, blocks, 2),
        num_heads=(heads, 2 * heads, 4 * heads, 8 * heads),
        window_size=7,
        **kwargs,
    )
    return model


register_models(
    _create,
    {
        "cvnets_swin_tiny_patch4_window7_224": (96, 6, 3),
        "cvnets_swin_small_patch4_window7_224": (96, 18, 3),
        "cvnets_swin_base_patch4_window7_224": (128, 18, 4),
        "cvnets_swin_base_patch4_window7_384": (128, 18, 4),  # with 7×7 windows
    },
)
