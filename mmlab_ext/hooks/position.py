"""Where a run is within an epoch: saved in checkpoints, restored when it resumes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from mmengine import dist
from torch.utils.data import Sampler

from mmlab_ext.errors import ConfigError

_KEY = "reinforced_position"  # in checkpoints


def save_position(runner: Any, checkpoint: dict[str, Any]) -> None:
    """Store in a checkpoint how many images of the epoch were used, and their order's seed."""
    loader, meta = runner.train_dataloader, checkpoint["meta"]
    batches = meta["iter"] - meta["epoch"] * len(loader)
    if not 0 <= batches <= len(loader):  # of a run that changed its batch size
        batches = 0
    checkpoint[_KEY] = {
        "images": batches * loader.batch_sampler.batch_size * dist.get_world_size(),
        "size": len(loader.dataset),
        "seed": getattr(loader.sampler, "seed", None),
    }


def restore_position(runner: Any, checkpoint: dict[str, Any]) -> None:
    """Let a resumed epoch begin after the images that were used.

    Raises:
        ConfigError: The checkpoint was saved within an epoch of other images.
    """
    position = checkpoint.get(_KEY)
    if position is None or not position["images"]:
        return
    loader = runner.train_dataloader
    if position["size"] != len(loader.dataset):
        raise ConfigError(
            f"the checkpoint was saved after {position['images']} images of an epoch of "
            f"{position['size']}, but train_dataloader.dataset has {len(loader.dataset)}; resume "
            f"with the same images, or from a checkpoint at the end of an epoch"
        )
    if position["seed"] is not None and hasattr(loader.sampler, "seed"):
        loader.sampler.seed = position["seed"]  # MMEngine resumes its own seed after building it
    skipped = position["images"] // dist.get_world_size()
    batches = loader.batch_sampler
    batches.sampler = _Remaining(batches.sampler, skipped)
    runner.logger.info(
        f"ReinforcementHook: epoch {checkpoint['meta']['epoch']} continues after "
        f"{position['images']} images"
    )


class _Remaining(Sampler[int]):
    """A sampler without its first positions, when it is used for the first time."""

    def __init__(self, sampler: Sampler[int], skipped: int) -> None:
        self._sampler, self._skipped = sampler, skipped

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        skipped, self._skipped = self._skipped, 0
        return itertools.islice(iter(self._sampler), skipped, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)
