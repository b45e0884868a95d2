"""Track whether all tensors of a network were loaded from checkpoints."""

from __future__ import annotations

from typing import Any

from torch import nn

from dr_models.cvnets.keys import is_counter
from dr_plugins.errors import BackboneError


class LoadRecord:
    """Tracks calls of `load_state_dict` on a network, its parts, or a model that contains it.

    It cannot detect direct copies into tensors; see `mark_loaded`.

    Args:
        network: The network. Layers may later be replaced under the same names.

    Attributes:
        is_complete: Whether every tensor was loaded, in one call or several.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> record = LoadRecord(network)
        >>> _ = network[0].load_state_dict(nn.Linear(2, 2).state_dict())
        >>> record.is_complete
        False
        >>> _ = network[1].load_state_dict(nn.Linear(2, 2).state_dict())
        >>> record.is_complete
        True
    """

    def __init__(self, network: nn.Module) -> None:
        self.is_complete = False
        self._network, self._loaded = network, set[str]()
        for module in network.modules():
            module.register_load_state_dict_pre_hook(self._on_load)

    @property
    def missing(self) -> set[str]:
        """Names of the tensors that were not loaded."""
        return self._own() - self._loaded

    def mark(self) -> None:
        """Mark the network as loaded."""
        self._loaded.update(self._network.state_dict())
        self.is_complete = True

    def _on_load(self, module: nn.Module, state: Any, prefix: str, *_: Any) -> None:
        is_whole = module is self._network
        if prefix and not is_whole:
            return  # handled by the hook of the module on which loading started
        place = next(name for name, each in self._network.named_modules() if each is module)
        inside = f"{place}." if place else ""
        # MMEngine only warns of tensors of another shape.
        found = {
            inside + key
            for key, value in module.state_dict().items()
            if getattr(state.get(prefix + key), "shape", None) == value.shape
        }
        own = self._own()
        if self.is_complete and is_whole and found and not own <= found:
            self._loaded.clear()  # another checkpoint, which does not have the rest
        self._loaded |= found
        self.is_complete = own <= self._loaded

    def _own(self) -> set[str]:
        return {key for key in self._network.state_dict() if not is_counter(key)}


def mark_loaded(model: nn.Module) -> None:
    """Mark the backbones of a model as loaded.

    Needed only for weights copied into tensors without `load_state_dict`.

    Args:
        model: A backbone or classifier of the extensions, or a model that contains some.

    Raises:
        BackboneError: The model contains none.

    Example:
        >>> mark_loaded(teacher)                                            # doctest: +SKIP
    """
    found = [getattr(module, "load_record", None) for module in model.modules()]
    records = [record for record in found if isinstance(record, LoadRecord)]
    if not records:
        raise BackboneError(
            f"{type(model).__name__} holds no backbone that tracks loading; pass a model with one, "
            f"or remove this call"
        )
    for record in records:
        record.mark()
