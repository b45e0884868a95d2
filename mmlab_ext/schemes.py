"""``imagenet-plus://PATH`` wherever MMEngine reads a checkpoint."""

from __future__ import annotations

from typing import Any

from mmengine.runner import CheckpointLoader

from dr_plugins.checkpoints import load_backbone
from dr_plugins.checkpoints.location import SCHEME

__all__ = ["load_from_imagenet_plus"]


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_from_imagenet_plus(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint as the state of an OpenMMLab ResNet.

    MMEngine does not say which module it is for, nor is it strict; where it matters use
    ``init_cfg=dict(type="Pretrained", checkpoint=...)``, for which this package is asked before,
    or `ReinforcedBackboneHook`.

    Args:
        filename: ``imagenet-plus://PATH``, with options as `CheckpointLocation` reads them.
        map_location: A device; None is the CPU.

    Returns:
        ``state_dict``, without classifier.

    Raises:
        CheckpointError: See `load_backbone`.
    """
    state = load_backbone(filename, to="mmengine").state
    if map_location is not None:
        state = {key: value.to(map_location) for key, value in state.items()}
    return {"state_dict": state}
