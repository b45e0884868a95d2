"""Key maps of CVNets' models to torchvision, if it has an equivalent network.

Most need a few layers replaced, see `dr_models.cvnets.torchvision_models`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import torch

from dr_models.cvnets.catalog import CVNetsModel
from dr_models.cvnets.keys import AFFINE, Change, Entry, module
from dr_models.cvnets.layers import conv_norm
from dr_models.cvnets.swin import window_index
from dr_plugins.errors import CheckpointError

_REASONS = {
    "mobilenetv1": "torchvision has no MobileNetV1",
    "mobilenetv3": "all its depthwise kernels are 3×3, some of torchvision's are 5×5",
    "mobilevit": "torchvision has no MobileViT",
    "efficientnet": "its squeeze-and-excitation layers are wider than torchvision's",
}
_NAMES = {
    "swin_tiny": "swin_t",
    "swin_small": "swin_s",
    "swin_base": "swin_b",
    "swin_base_384": "swin_b",
}


def torchvision_target(model: CVNetsModel) -> tuple[str, list[Entry]]:
    """Return torchvision's name of the most similar network, and the key map to it.

    Raises:
        CheckpointError: torchvision has no similar network.
    """
    if model.family in _REASONS:
        raise CheckpointError(
            f"{model.name} cannot be converted to torchvision: {_REASONS[model.family]}. Convert "
            f"it to timm instead (--to timm), for dr_models' {model.timm}"
        )
    if model.family == "mobilenetv2":
        return "mobilenet_v2", list(_mobilenet_v2())
    if model.family == "resnet":
        return model.name.replace("_", ""), list(model.entries())
    if model.family == "swin":
        return _NAMES[model.name], list(_renamed(model.entries(), _SWIN, _with_index))
    if model.family == "vit":
        return "VisionTransformer", list(_renamed(model.entries(), _VIT, _with_class_position))
    raise CheckpointError(f"{model.name} cannot be converted to torchvision: no names are known")


def _mobilenet_v2() -> Iterator[Entry]:
    yield from conv_norm("conv_1", "features.0.0", "features.0.1")
    blocks = [
        f"layer_{layer}.mv2_block_{block}.block"
        for layer, count in enumerate((1, 2, 3, 7, 4), 1)
        for block in range(count)
    ]
    for place, source in enumerate(blocks, 1):
        target, at = f"features.{place}.conv", 0
        if place > 1:  # the first block does not expand
            yield from conv_norm(f"{source}.exp_1x1", f"{target}.0.0", f"{target}.0.1")
            at = 1
        yield from conv_norm(f"{source}.conv_3x3", f"{target}.{at}.0", f"{target}.{at}.1")
        yield from conv_norm(f"{source}.red_1x1", f"{target}.{at + 1}", f"{target}.{at + 2}")
    yield from conv_norm("conv_1x1_exp", "features.18.0", "features.18.1")
    yield from module("classifier.classifier_fc", "classifier.1", AFFINE)


# From timm's names, the targets of the families' key maps, to torchvision's.
_Rules = Mapping[str, "str | Callable[[re.Match[str]], str]"]
_SWIN: _Rules = {
    r"^patch_embed\.proj\.": "features.0.0.",
    r"^patch_embed\.norm\.": "features.0.2.",
    r"^layers\.(\d)\.downsample\.": lambda found: f"features.{2 * int(found[1])}.",
    r"^layers\.(\d)\.blocks\.": lambda found: f"features.{2 * int(found[1]) + 1}.",
    r"\.mlp\.fc1\.": ".mlp.0.",
    r"\.mlp\.fc2\.": ".mlp.3.",
    r"^head\.fc\.": "head.",
}
_VIT: _Rules = {
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


def _renamed(
    entries: Iterator[Entry], rules: _Rules, adapt: Callable[[Entry], Entry]
) -> Iterator[Entry]:
    for entry in entries:
        adapted = adapt(entry)
        target = adapted.target
        if target is not None:
            for pattern, replacement in rules.items():
                target = re.sub(pattern, replacement, target)
        yield adapted._replace(target=target)


def _with_index(entry: Entry) -> Entry:
    """Add the index, which torchvision stores; always the intact one."""
    if not entry.source.endswith(".relative_position_index"):
        return entry
    block = entry.source.removesuffix(".attn.1.relative_position_index")
    stage, number = block.removeprefix("layer_").split(".")
    target = f"layers.{int(stage) - 1}.blocks.{number}.attn.relative_position_index"
    return Entry(entry.source, target, lambda stored: window_index())


def _with_class_position(entry: Entry) -> Entry:
    """Add a zero position for the class token, which torchvision expects."""
    if entry.target != "pos_embed":
        return entry
    resize: Change = entry.change or torch.clone

    def change(embedding: torch.Tensor) -> torch.Tensor:
        patches = resize(embedding)
        return torch.cat([torch.zeros_like(patches[:, :1]), patches], dim=1)

    return entry._replace(change=change)
