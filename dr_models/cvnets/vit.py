"""Key maps of vision transformers with a convolutional stem to timm's names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn import functional as F

from dr_models.cvnets.keys import AFFINE, Entry, module, tensor
from dr_models.cvnets.layers import conv_norm, transformer_block

_DEPTH = 12


def vit(positions: int) -> Iterator[Entry]:
    """Yield the entries of a vision transformer.

    Args:
        positions: Number of patches of an image. If the checkpoint has a different number of
            position embeddings, CVNets interpolates them along the flattened sequence in each
            forward pass; the converted file holds the result.
    """
    yield from tensor("cls_token", "cls_token")
    yield from tensor("pos_embed.pos_embed.pos_embed", "pos_embed", partial(_resize, positions))
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
