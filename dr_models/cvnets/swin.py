"""Swin transformers, and the indices that averaging has damaged."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dr_models.cvnets.keys import AFFINE, WEIGHT, Entry, module, tensor
from dr_plugins.errors import CheckpointError

__all__ = ["damaged_indices", "swin", "window_index", "with_stored_indices"]

_WINDOW = 7
_INDEX = ".relative_position_index"
_TABLE = ".relative_position_bias_table"
_BLOCK = {
    "attn.0": "norm1",
    "attn.1.qkv": "attn.qkv",
    "attn.1.proj": "attn.proj",
    "mlp.0": "norm2",
    "mlp.1": "mlp.fc1",
    "mlp.4": "mlp.fc2",
}


def swin(*depths: int) -> Iterator[Entry]:
    """Entries of a Swin transformer in timm's names.

    Args:
        *depths: Blocks in each of the four stages.
    """
    yield from module("conv_1.0.block.conv", "patch_embed.proj", WEIGHT)
    yield from module("conv_1.2", "patch_embed.norm", AFFINE)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            yield from _block(f"layer_{stage + 1}.{block}", f"layers.{stage}.blocks.{block}")
        if stage + 1 < len(depths):  # CVNets ends a stage with the merging, timm begins the next
            source, target = f"layer_{stage + 1}.{depth}", f"layers.{stage + 1}.downsample"
            yield from module(f"{source}.reduction", f"{target}.reduction", WEIGHT)
            yield from module(f"{source}.norm", f"{target}.norm", AFFINE)
    yield from module(f"layer_{len(depths) + 1}.0", "norm", AFFINE)
    yield from module("classifier.classifier_fc", "head.fc", AFFINE)


def _block(source: str, target: str) -> Iterator[Entry]:
    for theirs, ours in _BLOCK.items():
        yield from module(f"{source}.{theirs}", f"{target}.{ours}", AFFINE)
    yield from tensor(f"{source}.attn.1{_TABLE}", f"{target}.attn{_TABLE}")
    yield from tensor(f"{source}.attn.1{_INDEX}", None)


def window_index(window: int = _WINDOW) -> torch.Tensor:
    """Row of the bias table for every pair of places in a window (Liu et al., 2021, section 3.2).

    Args:
        window: Side of the window.

    Returns:
        int64 ``[window**4]``, values 0 to ``(2 * window - 1)**2 - 1``.

    Example:
        >>> window_index(2).view(4, 4)[0].tolist()
        [4, 3, 1, 0]
    """
    places = torch.arange(window)
    distance = places[:, None] - places[None, :] + window - 1
    rows = distance[:, None, :, None] * (2 * window - 1) + distance[None, :, None, :]
    return rows.flatten()


def damaged_indices(state: dict[str, torch.Tensor]) -> dict[str, int]:
    """The index buffers that are not a window's index, each with its number of wrong entries."""
    intact = window_index()
    found = {}
    for key, index in state.items():
        if key.endswith(_INDEX):
            if index.numel() != intact.numel():
                raise CheckpointError(
                    f"{key} has {index.numel()} entries, expected {intact.numel()}: the published "
                    f"Swin models have windows of {_WINDOW}×{_WINDOW}"
                )
            wrong = int((index.flatten() != intact).sum())
            if wrong:
                found[key] = wrong
    return found


def with_stored_indices(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rewrite bias tables so that an intact index reads what the stored one would have read.

    Hosts build their own index. Where the stored one gives the same row to all pairs at the same
    distance, as the averaged checkpoints' do, moving rows of the table is the same function.

    Args:
        state: A CVNets Swin state dict; it stays as it is.

    Raises:
        CheckpointError: An index out of the table, or one that no table can stand in for.
    """
    intact, changed = window_index(), dict(state)
    for key in damaged_indices(state):
        index = state[key].flatten()
        name = key.removesuffix(_INDEX) + _TABLE
        table = state.get(name)
        rows = len(table) if table is not None and table.ndim else 0
        if table is None or int(index.min()) < 0 or int(index.max()) >= rows:
            raise CheckpointError(
                f"{key} holds {int(index.min())} to {int(index.max())}, but the table {name} has "
                f"{rows} rows: the checkpoint is damaged beyond what averaging does"
            )
        moved = torch.empty(rows, dtype=torch.int64)
        moved[intact] = index.to(torch.int64)
        if not torch.equal(moved[intact], index.to(torch.int64)):
            raise CheckpointError(
                f"{key} gives different rows to pairs of places at the same distance, which no "
                f"host's network computes; convert without the stored indices, which rebuilds them"
            )
        changed[name] = table[moved]
    return changed
