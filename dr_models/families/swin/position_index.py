"""Swin's position indices, which averaging damaged in the published checkpoints."""

from __future__ import annotations

import torch

from dr_models.cvnets.keys import State
from dr_models.cvnets.report import ConversionReport
from dr_plugins.errors import CheckpointError

_WINDOW = 7
INDEX = ".relative_position_index"
TABLE = ".relative_position_bias_table"


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


def damaged_indices(state: State) -> dict[str, int]:
    """Return the index buffers that differ from `window_index`, with their numbers of errors."""
    intact = window_index()
    found = {}
    for key, index in state.items():
        if key.endswith(INDEX):
            if index.numel() != intact.numel():
                raise CheckpointError(
                    f"{key} has {index.numel()} entries, expected {intact.numel()}: the published "
                    f"Swin models have {_WINDOW}×{_WINDOW} windows"
                )
            wrong = int((index.flatten() != intact).sum())
            if wrong:
                found[key] = wrong
    return found


def with_stored_indices(state: State) -> State:
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
        name = key.removesuffix(INDEX) + TABLE
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


def settle_indices(state: State, stored: bool, report: ConversionReport) -> State:
    """Note Swin's damaged position indices; if `stored`, preserve their function."""
    damaged = damaged_indices(state)
    if damaged:
        entries = max(damaged.values())
        report.notes.append(
            f"{len(damaged)} relative_position_index buffers are damaged by averaging (up to "
            f"{entries} of their entries); "
            + (
                "the tables were rewritten to compute the same as with the damaged indices"
                if stored
                else "they are rebuilt, see `stored_indices` for the published behavior"
            )
        )
    return with_stored_indices(state) if stored else state
