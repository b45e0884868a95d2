"""timm's options, as facts for the contract of a shard set, checked before training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from timm.data.dataset import AugMixDataset, ImageDataset
from timm.data.mixup import FastCollateMixup, Mixup
from timm.data.naflex_loader import create_naflex_loader as timm_create_naflex_loader
from timm.loss.binary_cross_entropy import BinaryCrossEntropy

from dr_plugins import ReinforcedDataset
from dr_plugins.training.contract import Effect, RunFacts, Setting
from timm_ext.datasets import training_dataset
from timm_ext.errors import DatasetNameError, UnsupportedOptionError
from timm_ext.names import parse_name

_MIXING = Setting(
    "--mixup and --cutmix",
    Effect.MIXES,
    "Leave them out, or use a shard set with a mixing policy (`--policy mixing`)",
)
_SPLITS = Setting("--aug-splits (and --jsd-loss, which needs it)", Effect.AUGMENTS)
_BINARY = Setting(
    "--bce-loss",
    Effect.SEPARATES_CLASSES,
    "Leave it out: the loss is the KL divergence to the stored answers",
)
_NAFLEX = Setting(
    "--naflex-loader",
    Effect.AUGMENTS,
    "Leave it out; a NaFlex model trains with the standard loader too",
)
_LOADER = {
    "num_aug_splits": _SPLITS,
    "num_aug_repeats": Setting(
        "--aug-repeats",
        Effect.REPEATS,
        "Leave it out; more epochs show more reinforcements",
    ),
    "use_multi_epochs_loader": Setting(
        "--use-multi-epochs-loader",
        Effect.RUNS_AHEAD,
        "Leave it out: workers stay alive between epochs anyway",
    ),
    "input_size_choices": Setting(
        "--train-img-sizes",
        Effect.AUGMENTS,
        "Leave it out, and set the student's size with --img-size",
    ),
    "tf_preprocessing": Setting("tf_preprocessing", Effect.LOADS),
    "collate_fn": Setting("collate_fn", Effect.LOADS),
}
_EVALUATION = Setting(
    "is_training=False",
    Effect.EVALUATES_VIEWS,
    "Pass is_training=True, and create the validation dataset with is_training=False",
)


@functools.cache
def change_classes() -> None:
    """Make timm's mixing, splits and BCE loss refuse a reinforced dataset, its reader the name.

    The classes are changed in place, not replaced: timm's `super(BinaryCrossEntropy, self)` looks
    the class up by name and would find the subclass.
    """
    _check_before_init(Mixup, lambda *_, **__: _refuse_in_training(_MIXING))  # FastCollateMixup too
    _check_before_init(BinaryCrossEntropy, lambda *_, **__: _refuse_in_training(_BINARY))
    _check_before_init(AugMixDataset, _check_splits)
    _check_before_init(ImageDataset, _check_reader)


def _check_before_init(kind: type, check: Callable[..., None]) -> None:
    init: Callable[..., None] = vars(kind)["__init__"]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        check(*args, **kwargs)
        init(self, *args, **kwargs)

    setattr(kind, "__init__", checked)  # noqa: B010  mypy refuses an assignment to a method


def _check_splits(dataset: Any, *_: Any, **__: Any) -> None:
    if isinstance(dataset, ReinforcedDataset):
        _check(dataset, [_SPLITS])


def _check_reader(_: Any = None, reader: Any = None, *__: Any, **___: Any) -> None:
    """Refuse a name of ours: timm takes one that it does not know for an image folder's."""
    if isinstance(reader, str) and parse_name(reader) is not None:
        raise DatasetNameError(
            f"timm's own create_dataset was called for {reader!r}, through a reference that was "
            f"kept before timm_ext was imported (in a class, a functools.partial, a default "
            f"argument). Import timm_ext before that code, or call timm_ext.create_dataset"
        )


def create_naflex_loader(dataset: Any, *args: Any, **kwargs: Any) -> Any:
    """Create timm's NaFlex loader; refused for a reinforced dataset.

    Raises:
        UnsupportedOptionError: The dataset is reinforced.
    """
    if isinstance(dataset, ReinforcedDataset):
        _check(dataset, [_NAFLEX])
    return timm_create_naflex_loader(dataset, *args, **kwargs)


def check_loader_options(dataset: ReinforcedDataset, options: Mapping[str, Any]) -> None:
    """Check the arguments of `timm.data.create_loader` for a reinforced dataset.

    Args:
        dataset: The dataset.
        options: All arguments, by name.

    Raises:
        UnsupportedOptionError: Naming the command-line option, the reason and the remedy.
    """
    effects = [] if options["is_training"] else [_EVALUATION]
    if isinstance(options["collate_fn"], FastCollateMixup):
        effects.append(_MIXING)
    effects += [setting for name, setting in _LOADER.items() if options.get(name)]
    _check(dataset, effects, [_channels(options["input_size"])])


def _channels(input_size: Any) -> Setting:
    count = 3 if isinstance(input_size, int) or len(input_size) < 3 else input_size[0]
    found = "RGB" if count == 3 else f"{count}-channel"
    return Setting("--in-chans", found, "Leave it out, or write --in-chans 3")


def _refuse_in_training(setting: Setting) -> None:
    dataset = training_dataset()
    if dataset is not None:
        _check(dataset, [setting])


def _check(
    dataset: ReinforcedDataset, effects: Sequence[Setting], channels: Sequence[Setting] = ()
) -> None:
    run = RunFacts(effects=effects, channels=channels)
    dataset.contract().check_run(run, UnsupportedOptionError)
