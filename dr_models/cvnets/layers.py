"""Key maps of layers that several CVNets families share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dr_models.cvnets.keys import AFFINE, BATCH_NORM, WEIGHT, Entry, module


def conv_norm(source: str, conv: str, norm: str) -> Iterator[Entry]:
    """Yield the entries of CVNets' ``ConvLayer``: convolution without bias, batch normalization."""
    yield from module(f"{source}.block.conv", conv, WEIGHT)
    yield from module(f"{source}.block.norm", norm, BATCH_NORM)


def inverted_residual(source: str, target: str, expand: bool, se: bool) -> Iterator[Entry]:
    """Yield the entries of an inverted residual block to timm's EfficientNet family.

    Args:
        source: CVNets' prefix, including ``.block``.
        target: timm's prefix of the block.
        expand: Whether there is an expanding 1×1 convolution; otherwise timm calls the block
            depthwise-separable and uses other names.
        se: Whether there is squeeze-and-excitation.
    """
    if expand:
        yield from conv_norm(f"{source}.exp_1x1", f"{target}.conv_pw", f"{target}.bn1")
    depthwise, reduce = ("bn2", ("conv_pwl", "bn3")) if expand else ("bn1", ("conv_pw", "bn2"))
    yield from conv_norm(f"{source}.conv_3x3", f"{target}.conv_dw", f"{target}.{depthwise}")
    if se:
        layer = f"{source}.se.se_layer"
        yield from module(f"{layer}.fc1.block.conv", f"{target}.se.conv_reduce", AFFINE)
        yield from module(f"{layer}.fc2.block.conv", f"{target}.se.conv_expand", AFFINE)
    yield from conv_norm(f"{source}.red_1x1", *(f"{target}.{name}" for name in reduce))


_TRANSFORMER = {
    "pre_norm_mha.0": "norm1",
    "pre_norm_mha.1.qkv_proj": "attn.qkv",
    "pre_norm_mha.1.out_proj": "attn.proj",
    "pre_norm_ffn.0": "norm2",
    "pre_norm_ffn.1": "mlp.fc1",
    "pre_norm_ffn.4": "mlp.fc2",
}


def transformer_block(source: str, target: str) -> Iterator[Entry]:
    """Yield the entries of a pre-norm transformer block to timm's vision transformers."""
    for theirs, ours in _TRANSFORMER.items():
        yield from module(f"{source}.{theirs}", f"{target}.{ours}", AFFINE)


def numbered(counts: Sequence[int], pattern: str, first: int = 0) -> list[tuple[str, int]]:
    """Return the names of all blocks, each with the number of its group.

    Example:
        >>> numbered((1, 2), "layer_{}.{}", first=1)
        [('layer_1.0', 1), ('layer_2.0', 2), ('layer_2.1', 2)]
    """
    return [
        (pattern.format(group, block), group)
        for group, count in enumerate(counts, first)
        for block in range(count)
    ]


def stages(depths: Sequence[int]) -> list[tuple[str, int]]:
    """Return timm's names of the blocks of its EfficientNet family, each with its stage."""
    return numbered(depths, "blocks.{}.{}")
