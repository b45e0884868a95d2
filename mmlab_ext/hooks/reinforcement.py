"""The hook for training on reinforced data: sets the epoch, checks the config, and logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.registry import HOOKS

from dr_models.cvnets.report import shorten
from dr_plugins.errors import ImageChangedError
from mmlab_ext.datasets import ReinforcedDataset
from mmlab_ext.errors import ConfigError
from mmlab_ext.hooks.facts import facts_of, wrapper_facts
from mmlab_ext.hooks.inputs import InputsHook, bare_model
from mmlab_ext.hooks.position import restore_position, save_position


@HOOKS.register_module()
class ReinforcementHook(InputsHook):
    """Sets the dataset's epoch, and checks the config before the first step.

    It refuses settings that would augment or mix a second time, and replays a few images to check
    that the views are what the teacher saw. A run that resumes from a checkpoint within an epoch
    continues with the images that remain, for any number of workers. In training it logs
    ``reinforced``, the share of images with a teacher's answer, and after each epoch the bytes
    read.

    Args:
        replay: Number of images compared before training, spread over the dataset; the dataset's
            ``check`` decides what happens if they differ.

    Raises:
        ConfigError: Before training: contradictory settings.
        ImageChangedError: Before training: a view is not what the teacher saw.

    Example:
        A config::

            default_hooks = dict(reinforcement=dict(type="ReinforcementHook"))
    """

    # After the hook for the learning rate and before the logger's.
    priority = "NORMAL"

    def __init__(self, replay: int = 16) -> None:
        if replay < 0:
            raise ConfigError(
                f"ReinforcementHook.replay is {replay}; expected a number of images, or 0"
            )
        self.replay = replay
        self._counts = np.zeros(2, np.int64)

    def before_train(self, runner: Any) -> None:
        """Check the config, the model and the images."""
        dataset = _dataset(runner)
        _check_batch_size(runner)
        super().before_train(runner)
        dataset.check_run(facts_of(runner, dataset))
        self._check_images(runner, dataset)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Check again what other hooks may change when an epoch begins."""
        super().before_train_iter(runner, batch_idx, data_batch)
        if batch_idx == 0:
            dataset = _dataset(runner)
            dataset.check_run(facts_of(runner, dataset))

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Store how far the epoch is."""
        save_position(runner, checkpoint)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Check that something fits; if the run resumes, continue within the epoch."""
        _check_names(runner, checkpoint.get("state_dict", checkpoint))
        if runner._resume:
            restore_position(runner, checkpoint)

    def before_train_epoch(self, runner: Any) -> None:
        """Set the epoch, also in the workers."""
        _dataset(runner).set_epoch(runner.epoch)
        self._counts[:] = 0

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count the reinforced images."""
        samples = data_batch["data_samples"]
        reinforced = sum(bool(sample.reinforced) for sample in samples)
        self._counts += reinforced, len(samples)
        runner.message_hub.update_scalar("train/reinforced", reinforced / len(samples))

    def after_train_epoch(self, runner: Any) -> None:
        """Log the share of reinforced images and the bytes read, over all processes."""
        counts = torch.from_numpy(self._counts.copy()).to(dist.get_comm_device())
        dist.all_reduce(counts)
        reinforced, total = counts.tolist()
        size = reinforced * _dataset(runner).record_bytes
        runner.logger.info(
            f"ReinforcementHook: epoch {runner.epoch}, {reinforced} of {total} images reinforced "
            f"({reinforced / max(total, 1):.2%}), {size:,} bytes of reinforcements read"
        )

    def _check_images(self, runner: Any, dataset: ReinforcedDataset) -> None:
        core, total = dataset.reinforced, len(dataset)
        compared = 0
        if core.check != "off":
            count = min(self.replay, total)
            for index in np.unique(np.linspace(0, total - 1, count).round().astype(int)).tolist():
                try:
                    compared += core.replayer.compare(index)
                except ImageChangedError as error:
                    if core.check == "error":
                        raise
                    runner.logger.warning(f"ReinforcementHook: {error}")
            # Workers open the files themselves.
            core.shards.close()
        runner.logger.info(
            f"ReinforcementHook: {dataset!r}; {compared} images compared with what the teacher saw"
        )


def _dataset(runner: Any) -> ReinforcedDataset:
    dataset = runner.train_dataloader.dataset
    wrapped = getattr(dataset, "dataset", getattr(dataset, "_dataset", None))
    if isinstance(wrapped, ReinforcedDataset):
        wrapped.check_run(wrapper_facts(dataset))
    if isinstance(dataset, ReinforcedDataset):
        return dataset
    raise ConfigError(
        f"train_dataloader.dataset.type is {type(dataset).__name__}, which ReinforcementHook does "
        f"not support; use dict(type='ReinforcedDataset', ...) or remove the hook"
    )


def _check_names(runner: Any, state: Mapping[str, Any]) -> None:
    """Raise if no tensor is one of the model's: MMEngine only warns, and trains from scratch."""
    names = {str(name).removeprefix("module.") for name in state}
    if names.isdisjoint(bare_model(runner).state_dict()):
        raise ConfigError(
            f"the checkpoint of load_from has none of the model's tensors, but "
            f"{shorten(sorted(names))}: MMEngine would train from scratch. Give checkpoints of "
            f"other libraries as model.init_cfg=dict(type='Pretrained', "
            f"checkpoint='imagenet-plus://PATH'), or, with another number of classes, in a "
            f"ReinforcedBackboneHook"
        )


def _check_batch_size(runner: Any) -> None:
    if len(runner.train_dataloader) == 0:
        raise ConfigError(
            f"train_dataloader.batch_size is {runner.train_dataloader.batch_size}, more than the "
            f"images of an epoch, and drop_last drops incomplete batches: there would be no batch. "
            f"Make it smaller"
        )
