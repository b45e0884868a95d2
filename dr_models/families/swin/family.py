"""Swin transformers: key maps, and published models."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn
from torchvision import models

from dr_models.cvnets.keys import AFFINE, WEIGHT, Entry, Rules, module, renamed
from dr_models.cvnets.model import CLASSIFIER, CVNetsModel, Family, Torchvision
from dr_models.families.swin.position_index import INDEX, TABLE, settle_indices, window_index

_BLOCK = {
    "attn.0": "norm1",
    "attn.1.qkv": "attn.qkv",
    "attn.1.proj": "attn.proj",
    "mlp.0": "norm2",
    "mlp.1": "mlp.fc1",
    "mlp.4": "mlp.fc2",
}
_TORCHVISION_NAMES = {
    "swin_tiny": "swin_t",
    "swin_small": "swin_s",
    "swin_base": "swin_b",
    "swin_base_384": "swin_b",
}
# From timm's names to torchvision's.
_TO_TORCHVISION: Rules = {
    r"^patch_embed\.proj\.": "features.0.0.",
    r"^patch_embed\.norm\.": "features.0.2.",
    r"^layers\.(\d)\.downsample\.": lambda found: f"features.{2 * int(found[1])}.",
    r"^layers\.(\d)\.blocks\.": lambda found: f"features.{2 * int(found[1]) + 1}.",
    r"\.mlp\.fc1\.": ".mlp.0.",
    r"\.mlp\.fc2\.": ".mlp.3.",
    r"^head\.fc\.": "head.",
}


def _entries(*depths: int) -> Iterator[Entry]:
    """Yield the entries of a Swin transformer, to timm's names.

    Args:
        *depths: Number of blocks in each of the four stages.
    """
    yield from module("conv_1.0.block.conv", "patch_embed.proj", WEIGHT)
    yield from module("conv_1.2", "patch_embed.norm", AFFINE)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            yield from _block(f"layer_{stage + 1}.{block}", f"layers.{stage}.blocks.{block}")
        if stage + 1 < len(depths):  # patch merging ends a stage in CVNets, begins one in timm
            source, target = f"layer_{stage + 1}.{depth}", f"layers.{stage + 1}.downsample"
            yield from module(f"{source}.reduction", f"{target}.reduction", WEIGHT)
            yield from module(f"{source}.norm", f"{target}.norm", AFFINE)
    yield from module(f"layer_{len(depths) + 1}.0", "norm", AFFINE)
    yield from module("classifier.classifier_fc", "head.fc", AFFINE)


def _block(source: str, target: str) -> Iterator[Entry]:
    for theirs, ours in _BLOCK.items():
        yield from module(f"{source}.{theirs}", f"{target}.{ours}", AFFINE)
    yield Entry(f"{source}.attn.1{TABLE}", f"{target}.attn{TABLE}")
    yield Entry(f"{source}.attn.1{INDEX}", None)


def _torchvision_entries(model: CVNetsModel) -> Iterator[Entry]:
    return renamed((_with_index(entry) for entry in model.entries()), _TO_TORCHVISION)


def _with_index(entry: Entry) -> Entry:
    """Add the index, which torchvision stores; always the intact one."""
    if not entry.source.endswith(".relative_position_index"):
        return entry
    block = entry.source.removesuffix(".attn.1.relative_position_index")
    stage, number = block.removeprefix("layer_").split(".")
    target = f"layers.{int(stage) - 1}.blocks.{number}.attn.relative_position_index"
    return Entry(entry.source, target, lambda stored: window_index())


def _build_torchvision(model: CVNetsModel, num_classes: int) -> nn.Module:
    name = _TORCHVISION_NAMES[model.name]
    network: Any = models.get_model(name, weights=None, num_classes=num_classes)
    patches = network.features[0][0]
    network.features[0][0] = nn.Conv2d(3, patches.out_channels, 4, 4, 1, bias=False)
    built: nn.Module = network
    return built


# CVNets has configurations for tiny and small only. We assume that base is resized as tiny is, and
# not cropped at 384 pixels.
FAMILY = Family(
    "swin",
    tuple(
        CVNetsModel(
            f"swin_{mode}" + ("" if size == 224 else f"_{size}"),
            "swin",
            f"cvnets_swin_{mode}_patch4_window7_{size}",
            partial(_entries, 2, 2, blocks, 2),
            (CLASSIFIER, 1, width),
            size=size,
            resize=resize,
        )
        for mode, width, blocks, size, resize in (
            ("tiny", 768, 6, 224, 256),
            ("small", 768, 18, 224, 232),
            ("base", 1024, 18, 224, 256),
            ("base", 1024, 18, 384, 384),
        )
    ),
    torchvision=Torchvision(
        lambda model: _TORCHVISION_NAMES[model.name], _torchvision_entries, _build_torchvision
    ),
    settle=settle_indices,
)
