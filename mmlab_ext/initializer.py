"""Strict loading for ``init_cfg=dict(type="Pretrained", checkpoint="imagenet-plus://...")``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from dr_models.checkpoints.location import SCHEME
from dr_plugins.errors import BackboneError, CheckpointError
from mmlab_ext.loading import load_into


# MMEngine's ignores keys that do not match, and a registered scheme does not know the module.
@WEIGHT_INITIALIZERS.register_module(name="Pretrained", force=True)
class Pretrained(PretrainedInit):
    """MMEngine's `PretrainedInit`, but strict for ``imagenet-plus://`` checkpoints.

    Args:
        checkpoint: See `CheckpointLocation.parse`; any other text is passed to MMEngine.
        prefix: For MMEngine's checkpoints only.
        map_location: For MMEngine's checkpoints only.
        new_keys: For ``imagenet-plus://`` checkpoints only; see `load_into`.

    Raises:
        CheckpointError: The checkpoint does not fit the module.
        BackboneError: Checkpoints cannot be converted for this module.

    Example:
        >>> config = dict(type="Pretrained", checkpoint="imagenet-plus://best.pt")
        >>> initializer = WEIGHT_INITIALIZERS.build(config)
        >>> initializer(model.backbone)                                     # doctest: +SKIP
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: Any = "cpu",
        new_keys: Sequence[str] = (),
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.new_keys = [new_keys] if isinstance(new_keys, str) else list(new_keys)
        if self.new_keys and not checkpoint.startswith(SCHEME):
            raise CheckpointError(
                f"init_cfg: new_keys={self.new_keys} is for {SCHEME} checkpoints only; write "
                f"{SCHEME}{checkpoint}"
            )

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint into a module."""
        if not self.checkpoint.startswith(SCHEME):
            super().__call__(module)
            return
        key = f"init_cfg of {type(module).__name__}"
        if self.prefix is not None:
            raise CheckpointError(
                f"{key}: prefix={self.prefix!r} is not supported with {SCHEME}; leave it out, "
                f"prefixes are detected"
            )
        try:
            loaded = load_into(module, self.checkpoint, head=True, new_keys=self.new_keys)
        except (CheckpointError, BackboneError) as error:
            raise type(error)(f"{key}: {error}") from error
        print_log(f"{key}: {loaded.describe(self.checkpoint)}", logger="current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())

    def _get_init_info(self) -> Any:
        return f"loaded whole from {self.checkpoint}"
