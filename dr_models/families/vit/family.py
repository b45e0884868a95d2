"""Vision transformers with a convolutional stem: key maps, and published models."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.vision_transformer import ConvStemConfig

from dr_models.cvnets.keys import AFFINE, Change, Entry, Rules, module, renamed
from dr_models.cvnets.layers import conv_norm, transformer_block
from dr_models.cvnets.model import CVNetsModel, Family, Torchvision

_DEPTH = 12
# From timm's names to torchvision's.
_TO_TORCHVISION: Rules = {
    r"^cls_token$": "class_token",
    r"^pos_embed$": "encoder.pos_embedding",
    r"^patch_embed\.backbone\.2\.conv\.": "conv_proj.conv_last.",
    r"^patch_embed\.backbone\.(\d)\.conv\.": r"conv_proj.conv_bn_relu_\1.0.",
    r"^patch_embed\.backbone\.(\d)\.bn\.": r"conv_proj.conv_bn_relu_\1.1.",
    r"^blocks\.(\d+)\.": r"encoder.layers.encoder_layer_\1.",
    r"\.norm(\d)\.": r".ln_\1.",
    r"\.attn\.qkv\.": ".self_attention.in_proj_",
    r"\.attn\.proj\.": ".self_attention.out_proj.",
    r"\.mlp\.fc1\.": ".mlp.0.",
    r"\.mlp\.fc2\.": ".mlp.3.",
    r"^norm\.": "encoder.ln.",
    r"^head\.": "heads.head.",
}


def _entries(positions: int) -> Iterator[Entry]:
    """Yield the entries of a vision transformer.

    Args:
        positions: Number of patches of an image. If the checkpoint has a different number of
            position embeddings, CVNets interpolates them along the flattened sequence in each
            forward pass; the converted file holds the result.
    """
    yield Entry("cls_token", "cls_token")
    yield Entry("pos_embed.pos_embed.pos_embed", "pos_embed", partial(_resize, positions))
    for conv in range(2):
        target = f"patch_embed.backbone.{conv}"
        yield from conv_norm(f"patch_emb.{conv}", f"{target}.conv", f"{target}.bn")
    yield from module("patch_emb.2.block.conv", "patch_embed.backbone.2.conv", AFFINE)
    for block in range(_DEPTH):
        yield from transformer_block(f"transformer.{block}", f"blocks.{block}")
    yield from module("post_transformer_norm", "norm", AFFINE)
    yield from module("classifier", "head", AFFINE)


def _resize(positions: int, embedding: torch.Tensor) -> torch.Tensor:
    """Interpolate embeddings ``[1, 1, N, D]`` linearly to ``[1, positions, D]``."""
    if embedding.shape[2] == positions:
        return embedding[0]
    channels_first = embedding[0].transpose(1, 2).to(torch.float64)
    resized = F.interpolate(channels_first, positions, mode="linear")
    return resized.transpose(1, 2).to(embedding.dtype)


def _torchvision_entries(model: CVNetsModel) -> Iterator[Entry]:
    return renamed((_with_class_position(entry) for entry in model.entries()), _TO_TORCHVISION)


def _with_class_position(entry: Entry) -> Entry:
    """Add a zero position for the class token, which torchvision expects."""
    if entry.target != "pos_embed":
        return entry
    resize: Change = entry.change or torch.clone

    def change(embedding: torch.Tensor) -> torch.Tensor:
        patches = resize(embedding)
        return torch.cat([torch.zeros_like(patches[:, :1]), patches], dim=1)

    return entry._replace(change=change)


def _build_torchvision(model: CVNetsModel, num_classes: int) -> nn.Module:
    width = model.width[2]
    stem = max(32, width // 4)
    network = models.VisionTransformer(
        image_size=model.size,
        patch_size=16,
        num_layers=12,
        num_heads=width // 64,
        hidden_dim=width,
        mlp_dim=4 * width,
        num_classes=num_classes,
        # As CVNets, torchvision pads kernels of 4 by 1, and kernels of 2 by 0.
        conv_stem_configs=[ConvStemConfig(stem, 4, 4), ConvStemConfig(stem, 2, 2)],
    )
    convolutions: Any = network.conv_proj
    for block in convolutions[:2]:
        block[2] = nn.GELU()
    convolutions.conv_last = nn.Conv2d(stem, width, 2, 2)
    built: nn.Module = network
    return built


# There is no configuration of CVNets for ViT at 384 pixels; we assume that it does not crop.
FAMILY = Family(
    "vit",
    tuple(
        CVNetsModel(
            f"vit_{mode}" + ("" if size == 224 else f"_{size}"),
            "vit",
            f"cvnets_vit_{mode}_patch16_{size}",
            partial(_entries, (size // 16) ** 2),
            ("cls_token", 2, width),
            size=size,
            resize=232 if size == 224 else size,
        )
        for mode, width, size in (
            ("tiny", 192, 224),
            ("small", 384, 224),
            ("base", 768, 224),
            ("base", 768, 384),
        )
    ),
    torchvision=Torchvision(
        lambda model: "VisionTransformer", _torchvision_entries, _build_torchvision
    ),
)
