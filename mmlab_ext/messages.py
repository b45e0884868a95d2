"""What is logged about a checkpoint."""

from __future__ import annotations

from mmlab_ext.loading import Loaded

__all__ = ["describe"]


def describe(loaded: Loaded, checkpoint: str) -> str:
    """One line: what was loaded, from which layout, and what the network expects."""
    report, (mean, std) = loaded.weights.report, loaded.convention.for_range(255)
    left = len(loaded.weights.state) + len(report.dropped) - len(loaded.keys)
    unused = f", {left} of the checkpoint's have no place here" if left else ""
    new = f", {len(loaded.new)} new ones keep their values" if loaded.new else ""
    return (
        f"{report.arch} from {checkpoint} ({report.layout} layout): {len(loaded.keys)} tensors "
        f"loaded and compared{unused}{new}; it expects RGB with mean={_round(mean)} and "
        f"std={_round(std)}"
    )


def _round(values: tuple[float, ...]) -> list[float]:
    return [round(value, 3) for value in values]
