"""Refuses ``imagenet-plus://PATH`` where MMEngine would load it non-strictly."""

from __future__ import annotations

from typing import Any, NoReturn

from mmengine.runner import CheckpointLoader

from dr_models.checkpoints.location import SCHEME
from dr_plugins.errors import CheckpointError


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def refuse_to_load_loosely(filename: str, map_location: Any = None) -> NoReturn:
    """Refuse a checkpoint that MMEngine's own loader asks for.

    It does not pass the module, and only warns if nothing fits. Strict loading does not use it:
    ``init_cfg=dict(type="Pretrained", ...)`` and `ReinforcedBackboneHook`.

    Raises:
        CheckpointError: Always.

    Example:
        >>> refuse_to_load_loosely("imagenet-plus://best.pt")           # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dr_plugins.errors.CheckpointError: imagenet-plus://best.pt would be loaded by MMEngine...
    """
    raise CheckpointError(
        f"{filename} would be loaded by MMEngine, which only warns if nothing fits. In a config, "
        f"use default_hooks=dict(backbone=dict(type='ReinforcedBackboneHook', checkpoint=...)) or "
        f"init_cfg=dict(type='Pretrained', checkpoint=...) of the backbone, not load_from; in a "
        f"program, mmlab_ext.load_into(model.backbone, checkpoint)"
    )
