"""``init_cfg=dict(type="Pretrained", checkpoint="imagenet-plus://...")``, strictly."""

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
from mmlab_ext.messages import describe

__all__ = ["Pretrained"]


# MMEngine's own ignores keys that do not match, and a scheme is not told what it reads for. For
# every other checkpoint this is MMEngine's.
@WEIGHT_INITIALIZERS.register_module(name="Pretrained", force=True)
class Pretrained(PretrainedInit):
    """MMEngine's `PretrainedInit`, but strict about ``imagenet-plus://`` checkpoints.

    Args:
        checkpoint: See `CheckpointLocation.parse`; any other text is MMEngine's.
        prefix: Not for ours.
        map_location: Not for ours.
        new_keys: For ours alone; see `load_into`.

    Raises:
        CheckpointError: When a module is initialised with what does not fit it.
        BackboneError: When it is a module that checkpoints cannot be converted to.

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
                f"init_cfg: new_keys={self.new_keys} is for {SCHEME} checkpoints, and this is "
                f"{checkpoint}; write {SCHEME}{checkpoint}"
            )

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint into a module."""
        if not self.checkpoint.startswith(SCHEME):
            super().__call__(module)
            return
        key = f"init_cfg of {type(module).__name__}"
        if self.prefix is not None:
            raise CheckpointError(
                f"{key}: prefix={self.prefix!r} is not for {SCHEME}; leave it out, prefixes are "
                f"found out"
            )
        try:
            loaded = load_into(module, self.checkpoint, head=True, new_keys=self.new_keys)
        except (CheckpointError, BackboneError) as error:
            raise type(error)(f"{key}: {error}") from error
        print_log(f"{key}: {describe(loaded, self.checkpoint)}", logger="current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())

    def _get_init_info(self) -> Any:
        return f"loaded whole from {self.checkpoint}"
