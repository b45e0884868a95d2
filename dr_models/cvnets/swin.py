"""Key maps of Swin transformers, and position indices damaged by averaging."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dr_models.cvnets.keys import AFFINE, WEIGHT, Entry, module, tensor
from dr_plugins.errors import CheckpointError

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
    yield from tensor(f"{source}.attn.1{_TABLE}", f"{target}.attn{_TABLE}")
    yield from tensor(f"{source}.attn.1{_INDEX}", None)


def window_index(window: int = _WINDOW) -> torch.Tensor:
    """Return the bias table row of each pair of positions in a window (Liu et al., 2021, 3.2).

    Args:
        window: Side of the window.

    Returns:
        int64 ``[window**4]``, values 0 to ``(2 * window - 1)**2 - 1``.

    Example:
        >>> window_index(2).view(4, 4)[0].tolist()
        [4, 3, 1, 0]
    """
    positions = torch.arange(window)
    distance = positions[:, None] - positions[None, :] + window - 1
    rows = distance[:, None, :, None] * (2 * window - 1) + distance[None, :, None, :]
    return rows.flatten()


def damaged_indices(state: dict[str, torch.Tensor]) -> dict[str, int]:
    """Return the index buffers that differ from `window_index`, with their numbers of errors."""
    intact = window_index()
    found = {}
    for key, index in state.items():
        if key.endswith(_INDEX):
            if index.numel() != intact.numel():
                raise CheckpointError(
                    f"{key} has {index.numel()} entries, expected {intact.numel()}: the published "
                    f"Swin models have {_WINDOW}×{_WINDOW} windows"
                )
            wrong = int((index.flatten() != intact).sum())
            if wrong:
                found[key] = wrong
    return found


def with_stored_indices(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rewrite bias tables so that an intact index reads the values that the stored one reads.

    Hosts rebuild the index. If the stored one has the same row for all pairs at the same distance,
    as in the averaged checkpoints, moving rows of the table preserves the function.

    Args:
        state: A CVNets Swin state dict; not modified.

    Raises:
        CheckpointError: An index is out of range, or no table is equivalent to it.
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
                f"{rows} rows: the checkpoint is damaged, and not only by averaging"
            )
        moved = torch.empty(rows, dtype=torch.int64)
        moved[intact] = index.to(torch.int64)
        if not torch.equal(moved[intact], index.to(torch.int64)):
            raise CheckpointError(
                f"{key} has different rows for pairs of positions at the same distance, which no "
                f"host supports; convert without the stored indices, which rebuilds them"
            )
        changed[name] = table[moved]
    return changed
