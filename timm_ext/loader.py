"""timm's loaders for reinforced datasets: no second augmentation."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data.loader import create_loader as timm_create_loader
from torchvision.transforms.v2 import functional as transforms

from dr_plugins import ReinforcedDataset
from timm_ext.datasets import copy_for_loader
from timm_ext.errors import UnsupportedOptionError
from timm_ext.position import note_plain, order_for
from timm_ext.primary_log import log_on_primary
from timm_ext.refusals import check_loader_options

_SAFE_PREFETCHER = (1, 0, 31)


@dataclass(frozen=True)
class Normalize:
    """Converts uint8 views to normalised float32, as timm does without prefetcher.

    Attributes:
        mean: Of the channels, in [0, 1].
        std: Of the channels, in [0, 1].

    Example:
        >>> Normalize((0.0,) * 3, (1.0,) * 3)(torch.zeros(3, 8, 8, dtype=torch.uint8)).dtype
        torch.float32
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, view: torch.Tensor) -> torch.Tensor:
        """Convert uint8 ``[3, H, W]`` to float32, normalised."""
        return transforms.normalize(view.float() / 255, list(self.mean), list(self.std))


def create_loader(dataset: Any, *args: Any, **kwargs: Any) -> Any:
    """Create a loader, like `timm.data.create_loader`; takes reinforced datasets too.

    timm's training transform (``--aa``, ``--color-jitter``, ``--scale``, ``--hflip``, ...) is
    applied to plain images only; stored views are resized if the student has another input size.
    Random erasing (``--reprob``) is disabled.

    Args:
        dataset: A `ReinforcedDataset` for training, or any dataset that timm takes.
        *args: See `timm.data.create_loader`.
        **kwargs: See `timm.data.create_loader`.

    Returns:
        timm's loader of images ``[B, 3, H, W]`` and targets, `SparseTargets` if reinforced. It then
        holds a copy of the dataset that shares the epoch, so one dataset can have loaders of
        several sizes.

    Raises:
        UnsupportedOptionError: An option would augment, mix or repeat views again; or train.py
            before 1.0.27 resumes on plain images within an epoch of stored views.

    Example:
        >>> loader = create_loader(train, 224, 256, is_training=True)       # doctest: +SKIP
        >>> for epoch in range(300):                                        # doctest: +SKIP
        ...     train.set_epoch(epoch)
        ...     for images, targets in loader: ...
    """
    if not isinstance(dataset, ReinforcedDataset):
        loader = timm_create_loader(dataset, *args, **kwargs)
        if _by_name(dataset, *args, **kwargs)["is_training"]:
            note_plain(loader)
        return loader
    options = _by_name(dataset, *args, **kwargs)
    size = _input_size(options["input_size"])
    check_loader_options(dataset, options)
    _explain(dataset, options)
    dataset = copy_for_loader(dataset)
    dataset.defer = _can_defer(dataset, options, size)
    dataset.size = size
    if not options["use_prefetcher"]:  # the prefetcher normalises on the device
        dataset.postprocess = Normalize(tuple(options["mean"]), tuple(options["std"]))
    ours = {"re_prob": 0.0, "collate_fn": dataset.collate}
    # From pageable memory, the copy waits until the device has finished the previous step.
    ours["pin_memory"] = options["pin_memory"] or dataset.defer
    # timm up to 1.0.29 requests persistent workers even with no workers, which torch refuses.
    ours["persistent_workers"] = options["persistent_workers"] and options["num_workers"] > 0
    loader = timm_create_loader(**{**options, "dataset": dataset, **ours})
    if len(loader) == 0:
        raise UnsupportedOptionError(
            f"--batch-size {options['batch_size']} is more than the {len(dataset)} images of an "
            f"epoch, and incomplete batches are dropped: there would be no batch. Make it smaller"
        )
    batches = getattr(loader, "loader", loader).batch_sampler
    batches.sampler = order_for(dataset, batches)
    return loader


def _by_name(*args: Any, **kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(timm_create_loader).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _can_defer(dataset: ReinforcedDataset, options: dict[str, Any], size: tuple[int, int]) -> bool:
    """Whether the prefetcher finishes the views: on a GPU, if they need no resizing.

    The stream of older prefetchers may write to memory that the training step still reads. That is
    unlikely with a few large tensors per batch, but not with the many small ones used here.
    """
    if tuple(int(part) for part in re.findall(r"\d+", timm.__version__)[:3]) < _SAFE_PREFETCHER:
        return False
    on_gpu = options["use_prefetcher"] and torch.device(options["device"]).type == "cuda"
    return bool(on_gpu and size == dataset.policy.view_size)


def _input_size(input_size: Any) -> tuple[int, int]:
    if isinstance(input_size, int):
        return input_size, input_size
    height, width = input_size[-2:]
    return height, width


def _explain(dataset: ReinforcedDataset, options: dict[str, Any]) -> None:
    rest = 1 - dataset.p
    log_on_primary(
        f"{100 * dataset.p:.4g} % of the images are stored views; timm's training transform "
        f"(--aa, --color-jitter, --scale, --hflip, ...) applies to the other {100 * rest:.4g} %"
    )
    if options["re_prob"] > 0:
        log_on_primary(
            f"--reprob {options['re_prob']} is not used: it would erase parts of stored views"
        )
