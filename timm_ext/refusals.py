"""timm's options that would augment or mix stored views again, refused before training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from timm.data.dataset import AugMixDataset, ImageDataset
from timm.data.mixup import FastCollateMixup, Mixup
from timm.data.naflex_loader import create_naflex_loader as timm_create_naflex_loader
from timm.loss.binary_cross_entropy import BinaryCrossEntropy

from dr_plugins import ReinforcedDataset
from timm_ext.datasets import training_dataset
from timm_ext.errors import DatasetNameError, UnsupportedOptionError
from timm_ext.names import parse_name

_MIXING = (
    "--mixup and --cutmix",
    "they would mix views that the teacher saw unmixed",
    "Leave them out, or use a shard set with a mixing policy (`--policy mixing`)",
)
_SPLITS = (
    "--aug-splits (and --jsd-loss, which needs it)",
    "they would augment each split again, and the stored answers are for the stored views",
    "Leave it out",
)
_BINARY = (
    "--bce-loss",
    "the stored answers are probabilities of a softmax, one distribution over all classes",
    "Leave it out: the loss is the KL divergence to the stored answers",
)
_NAFLEX = (
    "--naflex-loader",
    "it crops images itself, and the stored answers are for the stored views",
    "Leave it out; a NaFlex model trains with the standard loader too",
)
_LOADER = {
    "num_aug_splits": _SPLITS,
    "num_aug_repeats": (
        "--aug-repeats",
        "it shows an image in several augmentations per epoch, but an image has one reinforcement "
        "per epoch",
        "Leave it out; more epochs show more reinforcements",
    ),
    "use_multi_epochs_loader": (
        "--use-multi-epochs-loader",
        "it loads the next epoch's first batches with this epoch's reinforcements",
        "Leave it out: workers stay alive between epochs anyway",
    ),
    "input_size_choices": (
        "--train-img-sizes",
        "it crops the images of each batch to another size, and the stored views have one size",
        "Leave it out, and set the student's size with --img-size",
    ),
    "tf_preprocessing": (
        "tf_preprocessing",
        "it decodes images itself",
        "Leave it out",
    ),
}


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
        raise _refusal(*_SPLITS)


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
        raise _refusal(*_NAFLEX)
    return timm_create_naflex_loader(dataset, *args, **kwargs)


def check_loader_options(options: Mapping[str, Any]) -> None:
    """Refuse arguments of `timm.data.create_loader` that a reinforced dataset does not support.

    Args:
        options: All arguments, by name.

    Raises:
        UnsupportedOptionError: Naming the command-line option, the reason and the remedy.
    """
    if not options["is_training"]:
        raise UnsupportedOptionError(
            "a reinforced dataset is for training: pass is_training=True, and create the "
            "validation dataset with is_training=False"
        )
    for name, refusal in _LOADER.items():
        if options.get(name):
            raise _refusal(*refusal)
    collate = options["collate_fn"]
    if isinstance(collate, FastCollateMixup):
        raise _refusal(*_MIXING)
    if collate is not None:
        raise _refusal("collate_fn", "the dataset has its own collate", "Leave it out")


def _refuse_in_training(refusal: tuple[str, str, str]) -> None:
    if training_dataset() is not None:
        raise _refusal(*refusal)


def _refusal(option: str, reason: str, remedy: str) -> UnsupportedOptionError:
    return UnsupportedOptionError(
        f"{option} cannot be used with a reinforced dataset: {reason}. {remedy}."
    )
