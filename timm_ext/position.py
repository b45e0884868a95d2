"""The order of images, which a run can resume in the middle of an epoch.

With ``--recovery-interval N``, timm's train.py saves a recovery checkpoint after every N updates;
resumed from one, it starts at the next epoch and leaves out the rest of this one. Here the
checkpoint also holds how much of the epoch was used, and the resumed run trains on the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import weakref
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import CheckpointSaver
from torch.utils.data import BatchSampler

from dr_plugins import ReinforcedDataset
from dr_plugins.training.resumable import EpochSampler
from timm_ext.datasets import training_dataset
from timm_ext.errors import UnsupportedOptionError
from timm_ext.primary_log import log_on_primary
from timm_ext.replacing import replace_everywhere

_KEY = "reinforced_position"  # in a checkpoint's optimizer state, which timm and torch pass on
_UPDATES = "updates"


class EpochOrder(EpochSampler):
    """Positions of this process' images in the dataset's epoch, from where a run resumes.

    Args:
        dataset: The dataset, whose seed and epoch decide the order.
        batches: timm's batches, whose sampler is replaced.

    Attributes:
        updates: Updates of the weights in the part of the epoch that is left out.
    """

    def __init__(self, dataset: ReinforcedDataset, batches: BatchSampler) -> None:
        self._sampler: Any = batches.sampler  # a DistributedSampler in several processes
        rank = getattr(self._sampler, "rank", 0)
        world_size = getattr(self._sampler, "num_replicas", 1)
        super().__init__(len(dataset), seed=dataset.seed, rank=rank, world_size=world_size)
        self._dataset, self._batch_size = dataset, batches.batch_size * world_size
        self.updates, self._resumes = 0, False

    def __iter__(self) -> Iterator[int]:
        # timm's train.py up to 1.0.28 sets the epoch of the dataset or of the sampler, not of both.
        epoch = max(self._dataset.epoch, getattr(self._sampler, "epoch", 0))
        if not self._resumes or epoch != self.epoch:
            self.epoch, self.first, self.updates = epoch, 0, 0
        self._resumes = False
        return super().__iter__()

    def position(self, epoch: int, updates: int, accumulated: int) -> dict[str, int] | None:
        """Return what a checkpoint holds; None if no batch of the epoch is left.

        Args:
            epoch: The epoch.
            updates: Updates of the weights since this run began with the epoch.
            accumulated: Batches of an update.
        """
        images = self.first + updates * accumulated * self._batch_size
        if images + self._batch_size > len(self) * self.world_size:
            return None
        return {**self.state_after(epoch, images), _UPDATES: self.updates + updates}

    def resume(self, position: dict[str, int]) -> int:
        """Continue from a checkpoint, and return its epoch.

        Raises:
            DatasetMismatchError: It is from a run with other images, another seed, or processes
                that took another number of images together.
        """
        self.load_state_dict(position)
        self.updates, self._resumes = position[_UPDATES], True
        log_on_primary(f"epoch {self.epoch} continues after {self.first} of {self.size} images")
        return self.epoch


_last: Callable[[], EpochOrder | None] = lambda: None  # noqa: E731
_plain_loader: Callable[[], object] = lambda: None  # noqa: E731
_read_before: dict[str, int] | None = None  # by train.py before 1.0.27, which resumes at first


def order_for(dataset: ReinforcedDataset, batches: BatchSampler) -> EpochOrder:
    """Return the order of a training loader's images, which checkpoints refer to from now on."""
    global _last, _plain_loader, _read_before
    change_functions()
    order = EpochOrder(dataset, batches)
    if _read_before is not None:
        order.resume(_read_before)
        _read_before = None
    _last, _plain_loader = weakref.ref(order), lambda: None
    return order


def note_plain(loader: Any) -> None:
    """Note that a training loader's images are plain, so that no position is restored.

    Raises:
        UnsupportedOptionError: A position was restored already, by train.py before 1.0.27: the
            whole epoch would be repeated.
    """
    global _plain_loader, _read_before
    position, _read_before = _read_before, None
    if position is not None:
        raise UnsupportedOptionError(
            f"the checkpoint of --resume is from within epoch {position['epoch']} of a "
            f"reinforced dataset; on other data, this train.py would repeat that epoch. Resume "
            f"from a checkpoint of a whole epoch (last.pth.tar) or with the reinforced dataset; "
            f"for another training, pass --initial-checkpoint instead"
        )
    _plain_loader = weakref.ref(loader)


def _current() -> EpochOrder | None:
    """The order of the training, found here because train.py passes no loader to its parts."""
    return None if training_dataset() is None else _last()


@functools.cache
def change_classes() -> None:
    """Let timm's recovery checkpoints hold the position, and its schedulers count from there."""
    save, step = CheckpointSaver.save_recovery, Scheduler.step_update

    @functools.wraps(save)
    def save_recovery(self: Any, epoch: int, batch_idx: int = 0) -> None:
        order, optimizer = _current(), self.optimizer
        if order is not None:
            accumulated = getattr(self.args, "grad_accum_steps", 1)
            position = order.position(epoch, batch_idx + 1, accumulated)
            if position is not None:
                self.optimizer = _WithPosition(optimizer, position)
        try:
            save(self, epoch, batch_idx)
        finally:
            self.optimizer = optimizer

    @functools.wraps(step)
    def step_update(self: Any, num_updates: int, *args: Any, **kwargs: Any) -> None:
        order = _current()
        step(self, num_updates + (order.updates if order is not None else 0), *args, **kwargs)

    setattr(CheckpointSaver, "save_recovery", save_recovery)  # noqa: B010  mypy refuses others
    setattr(Scheduler, "step_update", step_update)  # noqa: B010


class _WithPosition:
    """An optimizer whose state holds the position."""

    def __init__(self, optimizer: Any, position: dict[str, int]) -> None:
        self._optimizer, self._position = optimizer, position

    def state_dict(self) -> dict[str, Any]:
        return {**self._optimizer.state_dict(), _KEY: self._position}


@functools.cache
def change_functions() -> None:
    """Let timm's functions that resume return the epoch to continue with."""
    import timm.models

    functions: list[Callable[..., Any]] = [timm.models.resume_checkpoint]
    # Newer versions of train.py train a task, which holds the model.
    with contextlib.suppress(ImportError):
        from timm.task import resume_task_checkpoint

        functions.append(resume_task_checkpoint)
    replace_everywhere({function: _resuming(function) for function in functions})


def _resuming(resume: Callable[..., Any]) -> Callable[..., Any]:
    """Change a function of timm that resumes from a checkpoint and returns the first epoch."""
    signature = inspect.signature(resume)

    @functools.wraps(resume)
    def resume_within_epoch(*args: Any, **kwargs: Any) -> Any:
        global _read_before
        epoch = resume(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        is_strict = bound.arguments.get("weights_only", False)
        position = _read(bound.arguments["checkpoint_path"], is_strict)
        if position is None:
            return epoch
        if (order := _current()) is not None:
            return order.resume(position)
        if _plain_loader() is not None:
            log_on_primary(
                f"the checkpoint is from within epoch {position['epoch']} of a reinforced dataset; "
                f"the rest of that epoch is left out"
            )
            return epoch
        _read_before = position
        return position["epoch"]

    return resume_within_epoch


def _read(path: str, weights_only: bool) -> dict[str, int] | None:
    """The position in a checkpoint that timm has just read, and is read again in its way."""
    if not zipfile.is_zipfile(path):  # of an older PyTorch
        return None
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=weights_only)
    position: dict[str, int] | None = checkpoint.get("optimizer", {}).get(_KEY)
    return position
