"""Key maps of ResNets, whose stem has a second convolution in place of max pooling."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from dr_models.cvnets.keys import AFFINE, Change, Entry, module
from dr_models.cvnets.layers import conv_norm


def resnet(bottleneck: bool, *depths: int, stock_stem: bool = False) -> Iterator[Entry]:
    """Yield the entries of a ResNet, to the names shared by timm and torchvision.

    Args:
        bottleneck: Whether blocks have three convolutions instead of two.
        *depths: Number of blocks in each of the four stages.
        stock_stem: Convert the stem for timm's unmodified class with ``replace_stem_pool=True``:
            pad the 3×3 kernel to 7×7, and put the depthwise kernel on the diagonal of a dense one.
            The function is the same but costs more, and training would change the zeros.
    """
    widen, densify = (_as_7x7, _as_dense) if stock_stem else (None, None)
    yield from _stem(conv_norm("conv_1", "conv1", "bn1"), widen)
    yield from _stem(conv_norm("layer_1", "maxpool.0", "maxpool.1"), densify)
    convs = 3 if bottleneck else 2
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            source, target = f"layer_{stage + 1}.block_{block}", f"layer{stage}.{block}"
            for conv in range(1, convs + 1):
                name = "conv_batch" if conv == convs else "conv_batch_act"
                yield from conv_norm(
                    f"{source}.block.{name}_{conv}", f"{target}.conv{conv}", f"{target}.bn{conv}"
                )
            # Basic blocks of the first stage change neither width nor resolution.
            if block == 0 and (bottleneck or stage > 1):
                yield from conv_norm(
                    f"{source}.down_sample", f"{target}.downsample.0", f"{target}.downsample.1"
                )
    yield from module("classifier.classifier_fc", "fc", AFFINE)


def _stem(entries: Iterator[Entry], change: Change | None) -> Iterator[Entry]:
    for entry in entries:
        is_kernel = entry.source.endswith(".conv.weight")
        yield entry._replace(change=change) if is_kernel else entry


def _as_7x7(weight: torch.Tensor) -> torch.Tensor:
    """Pad a kernel ``[O, I, 3, 3]`` with zeros to ``[O, I, 7, 7]``."""
    return F.pad(weight, (2, 2, 2, 2))


def _as_dense(weight: torch.Tensor) -> torch.Tensor:
    """Convert a depthwise kernel ``[C, 1, 3, 3]`` to a dense one ``[C, C, 3, 3]``."""
    channels = torch.arange(len(weight), device=weight.device)
    dense = weight.new_zeros(len(weight), len(weight), *weight.shape[2:])
    dense[channels, channels] = weight[:, 0]
    return dense
