"""Datasets by name: reinforced for training, timm's or torchvision's own for validation."""

from __future__ import annotations

import copy
import inspect
import logging
import os
import weakref
from collections.abc import Callable
from typing import Any

from timm.data.dataset_factory import create_dataset as timm_create_dataset
from timm.data.readers.img_extensions import get_img_extensions
from torch.utils.data import IterableDataset
from torchvision import datasets

from dr_plugins import ReinforcedDataset, ShardSet
from dr_plugins.errors import LossError
from dr_plugins.images.skipping import skipped_keys
from dr_plugins.images.sources import open_source
from dr_plugins.losses import DistillationLoss, build_loss
from dr_plugins.training.contract import RunFacts, Setting
from dr_plugins.utils.quoting import quoted
from timm_ext.errors import DatasetNameError, ImagesNotFoundError, UnsupportedOptionError
from timm_ext.names import DatasetName, find_shards, parse_name
from timm_ext.plain_images import decoded_as_for_training
from timm_ext.primary_log import is_primary, log_on_primary
from timm_ext.validation import check_validation

_TIMM_NAMES = {"imagenet-plus": "", "cifar100-plus": "torch/cifar100"}
_TORCHVISION = {"flowers102-plus": datasets.Flowers102, "food101-plus": datasets.Food101}
# timm's names of splits to torchvision's; other names pass unchanged.
_SPLITS = {"training": "train", **dict.fromkeys(("validation", "valid", "eval"), "test")}


def create_dataset(name: str, *args: Any, **kwargs: Any) -> Any:
    """Create a dataset, like `timm.data.create_dataset`; adds reinforced datasets.

    Args:
        name: A name for `parse_name`; any other name is passed to timm.
        *args: See `timm.data.create_dataset`.
        **kwargs: See `timm.data.create_dataset`. With ``is_training=True`` the dataset is
            reinforced, and a `seed` in the name overrides this one; otherwise, and with ``p=0``,
            it is plain.

    Returns:
        `ReinforcedDataset`; or the images of timm or torchvision, where an unreadable one is an
        error.

    Raises:
        DatasetNameError: The name is invalid, or does not fit the split.
        ImagesNotFoundError: The images are not in `root`.
        ShardsNotFoundError: There is no shard set.
        UnsupportedOptionError: Images other than RGB, or a negative seed.
        DatasetMismatchError: Validation images have other classes than training images.
        ReinforcementError: Images and shard set do not match, see `ReinforcedDataset`; or those
            that the name gives cannot be opened.

    Example:
        >>> train = create_dataset("imagenet-plus", "imagenet", "train",    # doctest: +SKIP
        ...                        is_training=True)
    """
    parsed = parse_name(name)
    options = _by_name(timm_create_dataset, name, *args, **kwargs)
    is_training = bool(options.get("is_training"))
    if is_training:
        _remember(None)
    if parsed is None:
        return timm_create_dataset(name, *args, **kwargs)
    images = _open_images(parsed, options)
    if is_training and parsed.p > 0:
        return _remember(_reinforce(images, parsed, options))
    if (train := training_dataset()) is not None:
        check_validation(images, train)
    return decoded_as_for_training(images)


def training_dataset() -> ReinforcedDataset | None:
    """Return the training dataset created last, if it is reinforced and still in use.

    timm's ``train.py`` does not pass the dataset to its mixing and its loss; they look it up here.
    """
    return next(iter(_training), None)


def chosen_loss(dataset: ReinforcedDataset | None = None) -> DistillationLoss | None:
    """Return the loss that a dataset's name chooses; by default that of `training_dataset`."""
    dataset = training_dataset() if dataset is None else dataset
    return None if dataset is None else _losses.get(dataset)


def is_loss_chosen() -> bool:
    """Return whether the name of any dataset that is in use chooses a loss."""
    return bool(_losses)


def copy_for_loader(dataset: ReinforcedDataset) -> ReinforcedDataset:
    """Return a shallow copy, to be given another `transform` and `postprocess`.

    Everything else is shared, including the epoch: `set_epoch` on either sets both. While the copy
    is in use, `training_dataset` counts the dataset as in use.
    """
    copied = copy.copy(dataset)
    if dataset in _training:
        _training.add(copied)
    if dataset in _losses:
        _losses[copied] = _losses[dataset]
    return copied


# The dataset and its copies: a loader may outlive the dataset it was given.
_training: weakref.WeakSet[ReinforcedDataset] = weakref.WeakSet()
_losses: weakref.WeakKeyDictionary[ReinforcedDataset, DistillationLoss] = (
    weakref.WeakKeyDictionary()
)


def _remember(dataset: ReinforcedDataset | None) -> ReinforcedDataset | None:
    _training.clear()
    if dataset is not None:
        _training.add(dataset)
    return dataset


def _by_name(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    arguments = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    others = arguments.pop("kwargs", {})
    return {**arguments, **others}


def _open_images(parsed: DatasetName, options: dict[str, Any]) -> Any:
    try:
        return _open(parsed, options)
    # torchvision raises RuntimeError for missing files; timm's readers assert or use None as path.
    except (RuntimeError, OSError, AssertionError, TypeError) as error:
        root = options.get("root")
        is_missing = root is not None and not os.path.exists(root)
        reason = "no such directory" if is_missing else str(error) or type(error).__name__
        raise ImagesNotFoundError(
            f"the images of {parsed.name}, split {options.get('split', 'validation')}, cannot be "
            f"opened in --data-dir {root}: {reason}. "
            + ("Name others with &validation=IMAGES. " if parsed.images else "")
            + (
                "Let torchvision download them with --dataset-download, or give the folder they "
                "are in"
                if parsed.name in _TORCHVISION or _base_of(parsed).startswith("torch/")
                else "Give the folder that contains the folders of the splits or of the classes"
            )
        ) from error


def _base_of(parsed: DatasetName) -> str:
    return _TIMM_NAMES.get(parsed.name, parsed.base)


def _open(parsed: DatasetName, options: dict[str, Any]) -> Any:
    is_training = bool(options.get("is_training"))
    if spec := parsed.images if is_training else parsed.validation:
        return open_source(spec, options.get("class_map") or None, train=is_training).dataset
    if parsed.name not in _TORCHVISION:
        return timm_create_dataset(**{**options, "name": _base_of(parsed)})
    kind, split = _TORCHVISION[parsed.name], options.get("split", "validation")
    root = os.fspath(options.get("root") or ".")
    return kind(root, _SPLITS.get(split, split), download=bool(options.get("download")))


def _reinforce(images: Any, parsed: DatasetName, options: dict[str, Any]) -> ReinforcedDataset:
    _check_images(images, parsed, options)
    seed = options.get("seed", 42) if parsed.seed is None else parsed.seed
    shards = ShardSet(find_shards(parsed, options.get("root")))
    try:
        dataset = ReinforcedDataset(
            images,
            shards,
            p=parsed.p,
            densify=parsed.densify,
            check=parsed.check,
            seed=seed,
            skip=parsed.skip,
        )
    except ValueError as error:
        raise UnsupportedOptionError(f"{parsed.name} with --seed {seed}: {error}") from error
    mode = Setting(
        "--input-img-mode, --in-chans or --input-size",
        options.get("input_img_mode") or "RGB",
        "Leave them out, or give them 3 channels",
    )
    dataset.contract().check_run(RunFacts(channels=[mode]), UnsupportedOptionError)
    if parsed.loss is not None:
        _losses[dataset] = _build_loss(parsed.loss, dataset)
    log_on_primary(f"{parsed.name}: {len(dataset)} images, {shards!r}")
    if len(dataset) < len(shards) and is_primary():
        _warn_of_others(dataset, parsed)
    return dataset


def _build_loss(spec: str, dataset: ReinforcedDataset) -> DistillationLoss:
    try:
        loss = build_loss(spec, temperature=dataset.temperature)
    except (LossError, ValueError) as error:
        raise DatasetNameError(f"dataset option 'loss': {error}") from error
    temperature = Setting("dataset option 'loss'", loss.temperature)
    dataset.contract().check_run(RunFacts(temperatures=[temperature]), DatasetNameError)
    return loss


def _warn_of_others(dataset: ReinforcedDataset, parsed: DatasetName) -> None:
    """Log that reinforced images are not trained on: timm lists fewer formats than torchvision."""
    keys, left_out = dataset.shards.keys, dataset.shards.manifest.left_out
    skipped = skipped_keys(parsed.skip, keys, [left_out]) if parsed.skip else ()
    others = sorted(set(keys).difference(dataset.source.keys, skipped))
    if not others:
        return
    known = get_img_extensions()
    unknown = [key for key in others if not key.lower().endswith(known)]
    reason = ""
    if unknown and not (_base_of(parsed) or parsed.images):
        reason = (
            f". timm lists {', '.join(known)} only; for the others use --dataset "
            f"'reinforced?base=torch/image_folder&shards={dataset.shards.location}'"
        )
    log_on_primary(
        f"{parsed.name}: {len(others)} of the set's {len(dataset.shards)} images are not in the "
        f"dataset, such as {quoted((unknown or others)[0])}{reason}",
        logging.WARNING,
    )


def _check_images(images: Any, parsed: DatasetName, options: dict[str, Any]) -> None:
    if isinstance(images, IterableDataset):
        raise DatasetNameError(
            f"base={parsed.base} is a stream, but reinforcements are looked up by image; use a "
            f"dataset with random access, such as an image folder or torch/NAME"
        )
    # Where keys are positions (CIFAR, MNIST), both splits have the same keys.
    if getattr(images, "train", True) is False:
        raise DatasetNameError(
            f"--train-split {options.get('split')} is not the training split, and only that is "
            f"reinforced; write --train-split train"
        )
