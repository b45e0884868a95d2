"""Reinforced images for training a classifier in Detectron2's loops."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch.utils.data import DataLoader

from d2_ext.config import reinforced_node
from d2_ext.errors import ConfigError
from d2_ext.sampler import EpochBatches
from dr_plugins import ReinforcedDataset, ShardSet, SparseTargets
from dr_plugins.images.sources import open_source

Batch = dict[str, Any]


class ReinforcedLoader:
    """An infinite loader of reinforced batches, which depend on the iteration only.

    It starts at the current iteration of Detectron2's `EventStorage`, so a resumed run continues
    with the next images and views.

    Args:
        dataset: The images with their reinforcements.
        batches: The batches of each iteration.
        num_workers: Number of worker processes.

    Yields:
        ``images``, uint8 ``[B, 3, H, W]`` or `DeferredViews`; ``targets``, `SparseTargets` of B;
        ``contract``, the shard set's `Contract`, which the model checks, because a trainer passes
        the model nothing but batches.

    Example:
        >>> loader = ReinforcedLoader(dataset, EpochBatches(len(dataset), 256))  # doctest: +SKIP
        >>> batch = next(iter(loader))                                      # doctest: +SKIP
    """

    image_format = "RGB"

    def __init__(
        self, dataset: ReinforcedDataset, batches: EpochBatches, num_workers: int = 0
    ) -> None:
        self.dataset, self.batches, self.num_workers = dataset, batches, num_workers

    @property
    def iterations_per_epoch(self) -> int:
        """Iterations per pass over the images."""
        return self.batches.iterations_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        # In a generator, this runs at the first batch: some trainers create the iterator before
        # they know where they resume.
        iteration = _current_iteration()
        # Copies, since another iterator may be in another epoch.
        dataset, batches = self.dataset.with_own_epoch(), copy.copy(self.batches)
        contract = dataset.contract()
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )
        while True:
            # One pass per epoch: prefetching workers stay within it.
            dataset.set_epoch(batches.go_to(iteration))
            for batch in loader:
                yield {**batch, "contract": contract}
                iteration += 1


def _train_loader_from_config(cfg: Any, **kwargs: Any) -> dict[str, Any]:
    node = reinforced_node(cfg)
    if len(cfg.DATASETS.TRAIN) != 1:
        raise ConfigError(
            f"DATASETS.TRAIN is {tuple(cfg.DATASETS.TRAIN)}; expected one folder of images, with "
            f"one folder per class (or torchvision:NAME:ROOT)"
        )
    if not node.SHARDS:
        raise ConfigError(
            "REINFORCED.SHARDS is empty; set it to the directory of DATASETS.TRAIN's shard set"
        )
    options = {
        "images": cfg.DATASETS.TRAIN[0],
        "shards": node.SHARDS,
        "class_map": node.CLASS_MAP or None,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "p": node.P,
        "densify": node.DENSIFY,
        "seed": node.SEED,
        "check": node.CHECK,
        "size": node.SIZE or None,
        "defer": node.DEFER,
        "skip": node.SKIP,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }
    return {**options, **kwargs}


@configurable(from_config=_train_loader_from_config)
def build_reinforced_train_loader(
    images: Any,
    shards: str | os.PathLike[str] | ShardSet,
    *,
    total_batch_size: int,
    class_map: str | None = None,
    p: float = 0.99,
    densify: str = "smooth",
    seed: int = 0,
    check: str = "error",
    size: int | None = None,
    defer: bool = False,
    skip: str = "",
    num_workers: int = 0,
) -> ReinforcedLoader:
    """Build the training loader of a `ReinforcedClassifier`, from arguments or from a yacs config.

    Args:
        images: A folder with one folder per class, ``torchvision:NAME:ROOT``, or a dataset for
            `ReinforcedDataset`.
        shards: The shard set.
        total_batch_size: Batch size across all processes.
        class_map: If `images` is a folder, see `open_source`.
        p: See `ReinforcedDataset`.
        densify: See `ReinforcedDataset`.
        seed: Of the choice of reinforcements and of the order of images.
        check: See `ReinforcedDataset`.
        size: Side of the student's images in pixels; None for the size of the stored views.
        defer: Leave flips, RandAugment, erasing and mixing to the model's device: ``images`` are
            then `DeferredViews`, whose ``to(device)`` returns the images.
        skip: File with the keys of images to leave out, one a line.
        num_workers: Number of worker processes per training process.

    Raises:
        ConfigError: A missing key, an unsuitable batch size, or `defer` with another `size`.
        ReinforcementError: Images and shard set do not match; see `ReinforcedDataset`.

    Example:
        >>> loader = build_reinforced_train_loader(                         # doctest: +SKIP
        ...     "imagenet/train", "imagenet-plus", total_batch_size=1024, num_workers=8)
    """
    shards = shards if isinstance(shards, ShardSet) else ShardSet(shards)
    try:
        dataset = ReinforcedDataset(
            open_source(images, class_map) if isinstance(images, str | os.PathLike) else images,
            shards,
            p=p,
            densify=densify,
            seed=seed,
            check=check,
            size=size,
            defer=defer,
            skip=skip,
        )
    except ValueError as error:
        raise ConfigError(f"REINFORCED (lazy: build_reinforced_train_loader): {error}") from error
    batches = EpochBatches(
        len(dataset),
        total_batch_size,
        seed=seed,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
    return ReinforcedLoader(dataset, batches, num_workers)


def _current_iteration() -> int:
    try:
        return int(get_event_storage().iter)
    except AssertionError:  # outside a training loop
        return 0


def _collate(samples: Sequence[tuple[torch.Tensor, SparseTargets]]) -> Batch:
    """Collate samples into a batch for `ReinforcedClassifier`."""
    images, targets = ReinforcedDataset.collate(samples)
    return {"images": images, "targets": targets}
