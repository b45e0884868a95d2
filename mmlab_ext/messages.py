"""What is logged about a checkpoint."""

from __future__ import annotations

from dr_plugins.checkpoints import BackboneWeights

__all__ = ["describe"]


def describe(weights: BackboneWeights, checkpoint: str) -> str:
    """One line: what was loaded, from which layout, and what the network expects."""
    report, (mean, std) = weights.report, weights.convention.for_range(255)
    dropped = f", {len(report.dropped)} of the classifier left out" if report.dropped else ""
    return (
        f"{report.arch} from {checkpoint} ({report.layout} layout): {len(weights.state)} tensors "
        f"loaded and compared{dropped}; it expects RGB with mean={_round(mean)} and "
        f"std={_round(std)}"
    )


def _round(values: tuple[float, ...]) -> list[float]:
    return [round(value, 3) for value in values]
