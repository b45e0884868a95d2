"""A Runner's settings as facts for the contract of a shard set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dataset import InfiniteSampler, pseudo_collate
from mmengine.runner import EpochBasedTrainLoop

from dr_plugins.losses import DistillationLoss
from dr_plugins.training.contract import Effect, RunFacts, Setting
from mmlab_ext.datasets import USE_ITSELF, ReinforcedDataset
from mmlab_ext.hooks.inputs import bare_model
from mmlab_ext.images import KEY
from mmlab_ext.pipelines import decodes_to_bgr
from mmlab_ext.preprocessor import TimmDataPreprocessor

_VALIDATION = "val_dataloader.dataset"
_PREPROCESSOR = "model.data_preprocessor"
_FOLDER = "Use dict(type='ImageFolder', root=...)"
_USE_KD_LOSS = "Use loss=dict(type='KDLoss')"
# The last two are MMEngine's and MMSegmentation 1.2's.
_SWAPS = ("to_rgb", "_channel_conversion", "channel_conversion")


def facts_of(runner: Any, dataset: ReinforcedDataset) -> RunFacts:
    """Return what is known before the first step."""
    model = bare_model(runner)
    effects = [*_loop(runner), *_hooks(runner), *_model(runner, model, dataset)]
    names, channels = [], []
    if runner.val_loop is not None:
        validation = runner.val_loop.dataloader.dataset
        if isinstance(validation, ReinforcedDataset):
            key = f"{_VALIDATION}.type=ReinforcedDataset"
            effects.append(Setting(key, Effect.EVALUATES_VIEWS, _FOLDER))
        if decodes_to_bgr(validation):
            remedy = f"{_FOLDER}, where root may be this dataset's config"
            channels.append(Setting(f"{_VALIDATION}.pipeline", "BGR", remedy))
        classes = list(getattr(validation, "metainfo", {}).get("classes") or ()) or None
        names.append(Setting(_VALIDATION, classes))
    if any(getattr(model.data_preprocessor, name, False) for name in _SWAPS):
        key = f"{_PREPROCESSOR} with to_rgb, bgr_to_rgb or rgb_to_bgr"
        channels.append(Setting(key, "BGR", "Leave these out: training images are RGB already"))
    return RunFacts(
        effects=effects,
        num_classes=list(_classes(model)),
        temperatures=_temperatures(model),
        class_names=names,
        channels=channels,
    )


def wrapper_facts(dataset: Any) -> RunFacts:
    """Return what is known of a wrapper around the dataset."""
    if type(dataset).__name__ == "_SlicedDataset":  # MMEngine's
        return RunFacts([Setting("train_dataloader.num_batch_per_epoch", Effect.SKIPS)])
    key = f"{KEY}.type={type(dataset).__name__}"
    return RunFacts([Setting(key, Effect.REPEATS, USE_ITSELF)])


def _loop(runner: Any) -> Iterator[Setting]:
    # An iteration-based loop starts the next epoch while it prefetches, without calling hooks.
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        yield Setting(
            f"train_cfg ({type(runner.train_loop).__name__})",
            Effect.HAS_NO_EPOCHS,
            "Use dict(by_epoch=True, max_epochs=...)",
        )
    if isinstance(runner.train_dataloader.sampler, InfiniteSampler):
        yield Setting(
            "train_dataloader.sampler.type=InfiniteSampler",
            Effect.HAS_NO_EPOCHS,
            "Use dict(type='DefaultSampler', shuffle=True)",
        )


def _hooks(runner: Any) -> Iterator[Setting]:
    """Hooks that will add transforms or mixing, known before the epoch in which they do."""
    for hook in runner.hooks:
        name = type(hook).__name__
        # MMPretrain's has recipes for some epochs; the other one is MMDetection's.
        recipes = hook.schedule if name == "SwitchRecipeHook" else {}
        adds = any(r.get("train_pipeline") or r.get("batch_augments") for r in recipes.values())
        if adds or name == "PipelineSwitchHook":
            key = f"custom_hooks.type={name}"
            yield Setting(key, Effect.AUGMENTS, "Leave it out; the views do not change with epochs")


def _model(runner: Any, model: Any, dataset: ReinforcedDataset) -> Iterator[Setting]:
    preprocessor = model.data_preprocessor
    is_own = isinstance(preprocessor, TimmDataPreprocessor)
    collate = getattr(runner.train_dataloader.collate_fn, "func", None)
    if dataset.reinforced.defer and not (is_own and collate is pseudo_collate):
        yield Setting(
            f"{KEY}.defer=True",
            Effect.LEAVES_UNFINISHED,
            f"Set {_PREPROCESSOR}.type to TimmDataPreprocessor and train_dataloader.collate_fn to "
            f"dict(type='pseudo_collate'), or leave it out",
        )
    if not is_own and not dataset.gt_score:
        yield Setting(
            f"{_PREPROCESSOR}.type={type(preprocessor).__name__}",
            Effect.DROPS_ANSWERS,
            f"Set {KEY}.gt_score=True for MMPretrain's heads, or use TimmDataPreprocessor",
        )
    yield from _losses(model)
    mixing = getattr(preprocessor, "batch_augments", None)
    if mixing is not None:
        key = f"model.train_cfg.augments or {_PREPROCESSOR}.batch_augments"
        yield Setting(f"{type(mixing).__name__} of {key}", Effect.MIXES)


def _losses(model: Any) -> Iterator[Setting]:
    """Losses of MMPretrain's that take an answer for a label, or for one label per class."""
    for module in model.modules():
        kind = f"{type(module).__name__} of model.head.loss"
        if smoothing := getattr(module, "label_smooth_val", 0):
            yield Setting(f"label_smooth_val={smoothing} in {kind}", Effect.SMOOTHS, _USE_KD_LOSS)
        if getattr(module, "use_sigmoid", False) or type(module).__name__ == "FocalLoss":
            yield Setting(f"{kind}, which uses sigmoids,", Effect.SEPARATES_CLASSES, _USE_KD_LOSS)


def _classes(model: Any) -> Iterator[Setting]:
    for key, holder in (("model", model), ("model.head", getattr(model, "head", None))):
        classes = getattr(holder, "num_classes", None)
        if isinstance(classes, int):
            yield Setting(key, classes)


def _temperatures(model: Any) -> list[Setting]:
    # Other losses have no temperature, which is a temperature of 1.
    losses = [module for module in model.modules() if isinstance(module, DistillationLoss)]
    found = {loss.temperature for loss in losses} or {1.0}
    return [Setting("model.loss.temperature", temperature) for temperature in sorted(found)]
