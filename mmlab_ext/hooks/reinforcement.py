"""The hook for training on reinforced data: sets the epoch, checks the config, and logs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.dataset import InfiniteSampler, pseudo_collate
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from dr_plugins import KDLoss
from dr_plugins.errors import ImageChangedError
from dr_plugins.replay.replayer import Replayer
from mmlab_ext.datasets import ReinforcedDataset
from mmlab_ext.errors import ConfigError
from mmlab_ext.hooks.inputs import InputsHook, bare_model
from mmlab_ext.hooks.position import restore_position, save_position
from mmlab_ext.pipelines import decodes_to_bgr
from mmlab_ext.preprocessor import TimmDataPreprocessor

_KEY = "train_dataloader.dataset"


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
        _check_loop(runner)
        super().before_train(runner)
        model = bare_model(runner)
        _check_preprocessor(runner, model.data_preprocessor, dataset)
        _check_model(model, dataset)
        _check_validation(runner, dataset)
        self._check_images(runner, dataset)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Store how far the epoch is."""
        save_position(runner, checkpoint)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """If the run resumes, continue within the epoch."""
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
            replayer = Replayer(core.source, core.shards)
            count = min(self.replay, total)
            for index in np.unique(np.linspace(0, total - 1, count).round().astype(int)).tolist():
                try:
                    compared += replayer.compare(index)
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
    if isinstance(dataset, ReinforcedDataset):
        return dataset
    if isinstance(getattr(dataset, "dataset", None), ReinforcedDataset):
        raise ConfigError(
            f"{_KEY}.type is {type(dataset).__name__}, which repeats or selects images: each would "
            f"have the same view every time. Use ReinforcedDataset itself, and more epochs"
        )
    if type(dataset).__name__ == "_SlicedDataset":  # MMEngine's
        raise ConfigError(
            "train_dataloader.num_batch_per_epoch is set, so the other images would never be seen; "
            "leave it out"
        )
    raise ConfigError(
        f"{_KEY}.type is {type(dataset).__name__}, which ReinforcementHook does not support; use "
        f"dict(type='ReinforcedDataset', ...) or remove the hook"
    )


def _check_loop(runner: Any) -> None:
    if len(runner.train_dataloader) == 0:
        raise ConfigError(
            f"train_dataloader.batch_size is {runner.train_dataloader.batch_size}, more than the "
            f"images of an epoch, and drop_last drops incomplete batches: there would be no batch. "
            f"Make it smaller"
        )
    # An iteration-based loop starts the next epoch while it prefetches, without calling hooks.
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        raise ConfigError(
            f"train_cfg builds {type(runner.train_loop).__name__}, which has no epochs, but "
            f"reinforcements are chosen by epoch; use dict(by_epoch=True, max_epochs=...)"
        )
    if isinstance(runner.train_dataloader.sampler, InfiniteSampler):
        raise ConfigError(
            "train_dataloader.sampler.type is InfiniteSampler, so the first epoch would never end; "
            "use dict(type='DefaultSampler', shuffle=True)"
        )


def _check_validation(runner: Any, train: ReinforcedDataset) -> None:
    if runner.val_loop is None:
        return
    dataset = runner.val_loop.dataloader.dataset
    key = "val_dataloader.dataset"
    if isinstance(dataset, ReinforcedDataset):
        raise ConfigError(
            f"{key}.type is ReinforcedDataset, whose views are augmented; use "
            f"dict(type='ImageFolder', root=...)"
        )
    if decodes_to_bgr(dataset):
        raise ConfigError(
            f"{key}.pipeline decodes to BGR, but training images are RGB; use "
            f"dict(type='ImageFolder', root=...), where root may be this dataset's config"
        )
    names = list(getattr(dataset, "metainfo", {}).get("classes") or ()) or None
    train.reinforced.contract(ConfigError).check_class_names(names, key)


def _check_preprocessor(runner: Any, preprocessor: Any, dataset: ReinforcedDataset) -> None:
    key, is_own = "model.data_preprocessor", isinstance(preprocessor, TimmDataPreprocessor)
    collate = getattr(runner.train_dataloader.collate_fn, "func", None)
    if dataset.reinforced.defer and not (is_own and collate is pseudo_collate):
        raise ConfigError(
            f"{_KEY}.defer is True, which requires {key}.type TimmDataPreprocessor and "
            f"train_dataloader.collate_fn dict(type='pseudo_collate'); set these, or leave it out"
        )
    if is_own:
        return
    # The last two are MMEngine's and MMSegmentation 1.2's.
    for name in ("to_rgb", "_channel_conversion", "channel_conversion"):
        if getattr(preprocessor, name, False):
            raise ConfigError(
                f"{key} swaps channels (to_rgb, bgr_to_rgb or rgb_to_bgr), but reinforced images "
                f"are RGB already; leave these out"
            )
    if not dataset.gt_score:
        raise ConfigError(
            f"{key}.type is {type(preprocessor).__name__}, which passes labels, not stored "
            f"answers; set {_KEY}.gt_score=True for MMPretrain's heads, or use TimmDataPreprocessor"
        )


def _check_model(model: Any, dataset: ReinforcedDataset) -> None:
    contract = dataset.reinforced.contract(ConfigError)
    mixing = getattr(model.data_preprocessor, "batch_augments", None)
    if mixing is not None:
        option = "model.train_cfg.augments or model.data_preprocessor.batch_augments"
        raise contract.refuse_second(f"{type(mixing).__name__} of {option}", "mix")
    for key, holder in (("model", model), ("model.head", getattr(model, "head", None))):
        classes = getattr(holder, "num_classes", None)
        if isinstance(classes, int):
            contract.check_num_classes(classes, key)
    # Other losses have no temperature, which is a temperature of 1.
    losses = [module for module in model.modules() if isinstance(module, KDLoss)]
    for temperature in {loss.temperature for loss in losses} or {1.0}:
        contract.check_temperature(temperature, "model.loss.temperature")
