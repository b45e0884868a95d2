"""Datasets for MMEngine's data loaders: reinforced for training, plain for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import DATASETS
from torch.utils.data import Dataset
from torchvision.transforms import v2

from dr_plugins import ReinforcedDataset as CoreReinforcedDataset
from dr_plugins import ShardSet
from dr_plugins.errors import FormatError
from dr_plugins.replay.deferred import CroppedView, join
from dr_plugins.training.contract import Effect, RunFacts, Setting
from mmlab_ext.errors import ConfigError
from mmlab_ext.images import KEY, open_images
from mmlab_ext.samples import ClassificationSample

Item = dict[str, Any]

USE_ITSELF = "Use ReinforcedDataset itself, and more epochs"
_NO_EPOCH = Setting(
    f"{KEY} whose epoch is never set",
    Effect.HAS_NO_EPOCHS,
    "Add default_hooks=dict(reinforcement=dict(type='ReinforcementHook')), or call set_epoch() in "
    "your own training loop",
)


@DATASETS.register_module()
class ReinforcedDataset(Dataset[Item]):
    """Images, each as one of its stored views with the teacher's answer.

    Requires `ReinforcementHook` in ``default_hooks``, which sets the epoch.

    Args:
        images: A folder with one folder per class, ``torchvision:NAME:ROOT``, or the config of an
            OpenMMLab dataset that lists the images (its pipeline may only load them).
        shards: Directory of the shard set.
        p: Probability of a reinforcement, within ``[0, 1]``; other images are plain, with their
            label.
        densify: How to spread the probability that is not stored: ``smooth`` or ``zeros``.
        seed: Of the choice of reinforcements, at least 0.
        check: If a view is not what the teacher saw: ``error``, ``warn`` or ``off``.
        size: (height, width) in pixels to resize views to; None keeps the stored size.
        defer: Leave flips, RandAugment, erasing and mixing to the model's device: ``inputs`` are
            then `dr_plugins.replay.deferred.DeferredViews`, which `TimmDataPreprocessor` takes.
        skip: File with the keys of images to leave out, one a line.
        gt_score: Add the dense target to each sample, for mmpretrain's heads.
        class_map: File with one class folder per line, in label order, for a folder that has only
            some of the classes.
        pipeline: Must be empty: the views are complete.

    Attributes:
        reinforced: The `dr_plugins.ReinforcedDataset`.

    Raises:
        ConfigError: A pipeline, a missing shard set, or `defer` with another `size`.
        ReinforcementError: Images and shard set do not match.

    Example:
        >>> train = DATASETS.build(dict(type="ReinforcedDataset",           # doctest: +SKIP
        ...     images="imagenet/train", shards="imagenet-plus"))
        >>> train[0]["inputs"].shape, train[0]["data_samples"].gt_label     # doctest: +SKIP
        (torch.Size([3, 224, 224]), tensor([0]))
    """

    def __init__(
        self,
        images: Any,
        shards: str,
        *,
        p: float = 0.99,
        densify: str = "smooth",
        seed: int = 0,
        check: str = "error",
        size: int | Sequence[int] | None = None,
        defer: bool = False,
        skip: str = "",
        gt_score: bool = False,
        class_map: str | None = None,
        pipeline: Sequence[Any] = (),
    ) -> None:
        source = open_images(images, class_map)
        try:
            shard_set = ShardSet(shards)
        except FormatError as error:
            raise ConfigError(
                f"{KEY}.shards: {error} (make a shard set with `dr-plugins reinforce`)"
            ) from error
        try:
            self.reinforced = CoreReinforcedDataset(
                source,
                shard_set,
                p=p,
                densify=densify,
                seed=seed,
                check=check,
                size=size,
                defer=defer,
                skip=skip,
            )
        except ValueError as error:
            raise ConfigError(f"{KEY}: {error}") from error
        self.pipeline = pipeline
        self.gt_score = gt_score
        # In shared memory, like the epoch.
        self._has_epoch = torch.zeros((), dtype=torch.uint8).share_memory_()

    @property
    def metainfo(self) -> dict[str, Any]:
        """``classes``, names in label order, if the shard set has them."""
        names = self.reinforced.shards.manifest.settings["class_names"]
        return {} if names is None else {"classes": tuple(names)}

    @property
    def pipeline(self) -> Sequence[Any]:
        """Empty: the views are complete. Hooks that set transforms during training are refused."""
        return ()

    @pipeline.setter
    def pipeline(self, transforms: Any) -> None:
        transforms = getattr(transforms, "transforms", transforms)
        if transforms:
            self.check_run(RunFacts([_pipeline(transforms)]))

    @property
    def num_classes(self) -> int:
        """Number of classes of the targets."""
        return self.reinforced.num_classes

    @property
    def temperature(self) -> float:
        """Temperature of the stored answers."""
        return self.reinforced.temperature

    @property
    def record_bytes(self) -> int:
        """Bytes read from disk per reinforcement."""
        return int(self.reinforced.shards.manifest.layout.itemsize)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, also in running workers."""
        self.reinforced.set_epoch(epoch)
        self._has_epoch.fill_(1)

    def check_run(self, run: RunFacts) -> None:
        """Check a run against what the shard set demands.

        Raises:
            ConfigError: It does not do what the set demands.
        """
        self.reinforced.contract().check_run(run, ConfigError)

    def full_init(self) -> None:
        """Do nothing; MMEngine's wrappers call it before the hook can refuse them."""

    def get_cat_ids(self, index: int) -> None:
        """Refuse MMEngine's ClassBalancedDataset, which calls this before the hook can."""
        self.check_run(
            RunFacts([Setting(f"{KEY}.type=ClassBalancedDataset", Effect.REPEATS, USE_ITSELF)])
        )

    def __len__(self) -> int:
        return len(self.reinforced)

    def __getitem__(self, index: int) -> Item:
        """Return one image and its sample; see `__getitems__`."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return images and samples; a data loader calls this once per batch.

        Args:
            indices: Positions in the dataset.

        Returns:
            For each, ``inputs``, uint8 ``[3, H, W]`` RGB or `DeferredViews` of one view, and
            ``data_samples``, a `ClassificationSample`.

        Raises:
            ConfigError: The epoch was never set, so each image would always have the same view.
            ImageReadError: An image cannot be read.
            ImageChangedError: An image is not the one that was reinforced.
        """
        if not self._has_epoch:
            self.check_run(RunFacts([_NO_EPOCH]))
        keys = [self.reinforced.source.keys[index] for index in indices]
        chosen = self.reinforced.is_reinforced(indices).tolist()
        pairs = self.reinforced.__getitems__(indices)
        items = []
        for key, is_reinforced, (view, targets) in zip(keys, chosen, pairs, strict=True):
            sample = ClassificationSample(
                gt_label=targets.labels.reshape(1),
                targets=targets,
                reinforced=is_reinforced,
                image_key=key,
            )
            if self.gt_score:
                sample.gt_score = targets.dense()
            inputs = join([view]) if isinstance(view, CroppedView) else view
            items.append({"inputs": inputs, "data_samples": sample})
        return items

    def __repr__(self) -> str:
        return f"{self.reinforced!r}"


@DATASETS.register_module()
class ImageFolder(Dataset[Item]):
    """Images in one folder per class: resized and centre-cropped, not augmented.

    Args:
        root: The folder, ``torchvision:NAME:ROOT`` for a dataset's test split, or the config of
            an OpenMMLab dataset that lists the images.
        size: (height, width) of the crop in pixels.
        crop_pct: Crop size as a fraction of the resized shorter side, above 0, up to 1.
        interpolation: ``bilinear`` or ``bicubic``.
        class_map: See `ReinforcedDataset`.

    Attributes:
        source: The `dr_plugins.ImageSource`.

    Raises:
        ConfigError: An option is out of range.
        DatasetMismatchError: The folder does not exist.

    Example:
        >>> val = DATASETS.build(dict(type="ImageFolder", root="imagenet/val"))  # doctest: +SKIP
        >>> val[0]["inputs"].shape                                          # doctest: +SKIP
        torch.Size([3, 224, 224])
    """

    def __init__(
        self,
        root: Any,
        *,
        size: int | Sequence[int] = 224,
        crop_pct: float = 0.875,
        interpolation: str = "bilinear",
        class_map: str | None = None,
    ) -> None:
        if not 0 < crop_pct <= 1 or interpolation not in ("bilinear", "bicubic"):
            raise ConfigError(
                f"val_dataloader.dataset has crop_pct {crop_pct} and interpolation "
                f"{interpolation!r}; expected above 0 and up to 1, and bilinear or bicubic"
            )
        self.source = open_images(root, class_map, train=False)
        height, width = _pair(size)
        # As in timm, the shorter side becomes size / crop_pct, rounded down.
        shorter = int(min(height, width) / crop_pct)
        self.transform = v2.Compose(
            [
                v2.Resize(shorter, v2.InterpolationMode(interpolation), antialias=True),
                v2.CenterCrop([height, width]),
                v2.PILToTensor(),
            ]
        )

    @property
    def metainfo(self) -> dict[str, Any]:
        """``classes``, names in label order, if known."""
        names = self.source.class_names
        return {} if names is None else {"classes": tuple(names)}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        """Return one image, uint8 ``[3, H, W]`` RGB, and its `ClassificationSample`.

        Raises:
            ImageReadError: It cannot be read; it is not replaced by another image.
        """
        image, label = self.source.load(index)
        sample = ClassificationSample(
            gt_label=torch.tensor([label]), image_key=self.source.keys[index]
        )
        return {"inputs": self.transform(image), "data_samples": sample}


def _pair(size: int | Sequence[int]) -> list[int]:
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ConfigError(f"dataset.size is {size}; expected pixels, or (height, width)")
    return pair


def _pipeline(steps: Sequence[Any]) -> Setting:
    kinds = [step.get("type") if isinstance(step, dict) else type(step).__name__ for step in steps]
    names = map(str, kinds)
    return Setting(
        f"{KEY}.pipeline ({', '.join(names)})",
        Effect.AUGMENTS,
        f"Leave it out; to resize views for the student, set {KEY}.size",
    )
