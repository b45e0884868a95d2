"""The reinforced dataset: any image dataset with a teacher's stored answers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import resize

from dr_plugins import randomness
from dr_plugins.errors import DatasetMismatchError, ImageChangedError
from dr_plugins.images.decoding import size_of
from dr_plugins.images.skipping import SkipList
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.records import BASIC_ANSWER, Field
from dr_plugins.replay.deferred import CroppedView
from dr_plugins.replay.replayer import Replayer
from dr_plugins.shards.reader import ShardSet
from dr_plugins.targets import SparseTargets
from dr_plugins.training.batch import Images, Sample, Samples, View, collate
from dr_plugins.training.contract import Contract, RunFacts, Setting
from dr_plugins.training.draws import Draws
from dr_plugins.utils.workers import report_lost_batches

_PLAIN_STREAM = 1


class ReinforcedDataset(Dataset[Sample]):
    """Pairs each image with one of its reinforcements: a replayed view and the teacher's answer.

    An image's reinforcement is a pure function of seed, epoch and image key: it does not depend on
    workers, ranks or order, and none repeats before all have been used. With probability ``1 - p``
    the image is plain, with its one-hot label (Faghri et al., 2023, use p = 0.99).

    Args:
        images: Map-style dataset of (PIL image, label) without transform, or an `ImageSource`.
        shards: A shard set or its directory. It may cover more images than the dataset holds.
        p: Probability of a reinforcement, within ``[0, 1]``.
        densify: Distribution of the probability that is not stored, ``"smooth"`` or ``"zeros"``;
            see `SparseTargets`.
        seed: Seed of all choices, ``0 <= seed < 2**63``.
        transform: From a PIL image to a tensor, for plain images; by default a random resized crop
            and a flip to the size of the stored views, followed by `postprocess`.
        size: (height, width) in pixels, or the side of a square, that views are resized to,
            bilinear and antialiased; None keeps the stored size. Does not apply to `transform`.
        postprocess: Applied to the resulting views, uint8 ``[3, H, W]``; for example to normalize
            them. With `transform`, both must return the same dtype and range of values.
        keys: Keys of the images, if they cannot be derived; see `image_keys`.
        skip: Images to leave out, for example `dr-plugins suspects`'s: a file with one key a line,
            or the keys. They are still mixed into the views of others.
        check: What to do when a replayed view differs from the teacher's (each image has one
            fingerprinted view, used once in S epochs): ``"error"``, ``"warn"`` or ``"off"``.
        defer: Compute flips, RandAugment, erasing and mixing on the device that the images are sent
            to: `collate` then returns `DeferredViews`, whose ``to(device)`` returns the images.
            This relieves the workers and costs a GPU little.

    Raises:
        FormatError: The shard set is missing or damaged.
        UnknownImageError: An image has no reinforcement.
        DatasetMismatchError: The dataset has other classes, or has a transform; or a key in `skip`
            is no image's.
        ValueError: An option is out of range.

    Example:
        >>> images = ImageFolder("imagenet/train")                          # doctest: +SKIP
        >>> train = ReinforcedDataset(images, "imagenet-plus", seed=0)      # doctest: +SKIP
        >>> loader = DataLoader(train, 256, shuffle=True, num_workers=8,    # doctest: +SKIP
        ...                     collate_fn=train.collate)
        >>> train.set_epoch(1)                                              # doctest: +SKIP
    """

    def __init__(
        self,
        images: Any,
        shards: ShardSet | str | PathLike[str],
        *,
        p: float = 0.99,
        densify: str = "smooth",
        seed: int = 0,
        transform: Callable[[Image.Image], Any] | None = None,
        size: int | Sequence[int] | None = None,
        postprocess: Callable[[torch.Tensor], torch.Tensor] | None = None,
        keys: Sequence[str] | None = None,
        skip: SkipList = (),
        check: str = "error",
        defer: bool = False,
    ) -> None:
        _check_choice("densify", densify, ("smooth", "zeros"))
        _check_choice("check", check, ("error", "warn", "off"))
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p is {p}; expected a probability within 0 and 1")
        if not 0 <= seed < 1 << 63:
            raise ValueError(f"seed is {seed}; expected 0 <= seed < 2**63")
        source = images if isinstance(images, ImageSource) else ImageSource(images, keys)
        self.shards = shards if isinstance(shards, ShardSet) else ShardSet(shards)
        self.p, self.densify, self.seed, self.check = p, densify, seed, check
        self.transform = transform
        self.size = None if size is None else _pair(size)
        self.postprocess = postprocess
        self.defer = defer
        self._replayer = Replayer(source, self.shards, skip)
        policy = self.policy
        if defer and postprocess is not None:
            raise ValueError(
                "postprocess takes finished views, but defer leaves them to a device; leave out "
                "defer, or process the finished batch"
            )
        sizes = [Setting(f"size={size}", self.size or policy.view_size)] if defer else []
        self.contract().check_run(RunFacts(deferred_sizes=sizes), ValueError)
        self._plain_policy = Policy.load("rrc", size=policy.view_size[0], backend=policy.backend)
        # In shared memory, so running workers see the epoch set by the main process.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._draws = Draws(len(self))

    @property
    def replayer(self) -> Replayer:
        """Computes the stored views of these images."""
        return self._replayer

    @property
    def source(self) -> ImageSource:
        """The images."""
        return self._replayer.source

    @property
    def policy(self) -> Policy:
        """The augmentation policy of the stored views."""
        return self._replayer.policy

    @property
    def num_classes(self) -> int:
        """Number of classes of the targets."""
        return self.shards.manifest.num_classes

    @property
    def temperature(self) -> float:
        """Divisor of the teacher's logits; the targets carry it, and the loss must use it."""
        return self.shards.manifest.temperature

    def contract(self) -> Contract:
        """Return what the shard set demands of the training run."""
        return Contract.of_set(self.shards, self.source.class_names)

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, also for workers that are already running.

        Raises:
            ValueError: It is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; expected a number >= 0")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        """Return one image and its target; see `__getitems__`."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """Return images with their targets; DataLoader calls this once for a whole batch.

        Args:
            indices: Positions in the dataset.

        Returns:
            For each, a tensor (uint8 ``[3, H, W]`` unless `transform` and `postprocess` return
            another), or with `defer` a `CroppedView`, and the `SparseTargets` of one sample.
            `collate` reuses the targets of the whole batch. What else the set stores of the answer
            is in their `extras`, as floating point or int64; NaN or -1 for plain images.

        Raises:
            ImageReadError: An image cannot be read.
            ImageChangedError: An image is not the one that was reinforced.
            FormatError: A record or a shard is damaged, or the shard set was replaced.
        """
        report_lost_batches()
        epoch, rows = self.epoch, self._replayer.rows[np.asarray(indices, np.int64)]
        self.shards.check_in_place(rows)
        self._draws.count(epoch, np.asarray(indices, np.int64))
        count, hashes = len(rows), self._hashes(rows)
        reinforced = randomness.uniform(self.seed, epoch, hashes) < self.p
        chosen = randomness.choose_samples(self.seed, epoch, hashes, self.shards.manifest.samples)
        records = self.shards.read(rows[reinforced], chosen[reinforced])
        params = iter(self.policy.decode(records))
        views, labels = [], []
        for index, sample, is_replay, key_hash in zip(
            indices, chosen.tolist(), reinforced.tolist(), hashes.tolist(), strict=True
        ):
            view, label = (
                self._replay(int(index), sample, next(params))
                if is_replay
                else self._plain(int(index), epoch, key_hash)
            )
            views.append(view)
            labels.append(label)
        ids = np.full((count, self.shards.manifest.topk), -1, np.int64)
        probs = np.zeros(ids.shape, np.float32)
        ids[reinforced], probs[reinforced] = records["ids"], records["probs"]
        classes = np.array(labels, np.int64)
        ids[~reinforced, 0], probs[~reinforced, 0] = classes[~reinforced], 1.0
        targets = SparseTargets(
            torch.from_numpy(ids),
            torch.from_numpy(probs),
            num_classes=self.num_classes,
            labels=torch.from_numpy(classes),
            densify=self.densify,
            temperature=self.temperature,
            extras=self._extras(records, reinforced),
        )
        return Samples(views, targets)

    def _extras(self, records: np.ndarray, reinforced: np.ndarray) -> dict[str, torch.Tensor]:
        """The parts of the answer that only some sets store, for the images of a batch."""
        fields = self.shards.manifest.layout.answers[len(BASIC_ANSWER) :]
        return {field.name: _column(field, records, reinforced) for field in fields}

    def is_reinforced(self, indices: Sequence[int]) -> np.ndarray:
        """Return which images have a stored view in this epoch; the others are plain.

        Args:
            indices: Positions in the dataset.

        Returns:
            bool ``[len(indices)]``.
        """
        hashes = self._hashes(self._replayer.rows[np.asarray(indices, np.int64)])
        drawn: np.ndarray = randomness.uniform(self.seed, self.epoch, hashes)
        return drawn < self.p

    def _hashes(self, rows: np.ndarray) -> np.ndarray:
        keys = self.shards.keys
        return np.array([randomness.hash_key(keys.encoded(r)) for r in rows.tolist()], np.uint64)

    def _replay(self, index: int, sample: int, params: AugmentParams) -> tuple[View, int]:
        is_checked = self.check != "off" and self._replayer.is_fingerprinted(index, sample)
        if self.defer:
            if is_checked:
                self._check(index, self._replayer.view(index, params)[0])
            return self._replayer.cropped_view(index, params)
        view, label = self._replayer.view(index, params)
        if is_checked:
            self._check(index, view)
        return self._for_student(view), label

    def _check(self, index: int, view: torch.Tensor) -> None:
        try:
            self._replayer.check(index, view)
        except ImageChangedError as error:
            if self.check == "error":
                raise
            warnings.warn(str(error), stacklevel=2)

    def _plain(self, index: int, epoch: int, key_hash: int) -> tuple[View, int]:
        view, label = self._plain_view(index, epoch, key_hash)
        return CroppedView(self.policy, view, None) if self.defer else view, label

    def _plain_view(self, index: int, epoch: int, key_hash: int) -> tuple[torch.Tensor, int]:
        as_pixels = self.transform is None and self._plain_policy.takes_pixels
        image, label = self._replayer.load(index, as_pixels=as_pixels)
        if label < 0:
            raise DatasetMismatchError(
                f"image {self.source.keys[index]!r} has no label and cannot be used plain; set p=1"
            )
        if self.transform is not None:
            assert isinstance(image, Image.Image)
            return torch.as_tensor(self.transform(image)), label
        rng = randomness.image_generator(self.seed, key_hash, epoch, _PLAIN_STREAM)
        params = self._plain_policy.sample(rng, size_of(image))
        return self._for_student(self._plain_policy.apply(image, params)), label

    def _for_student(self, view: torch.Tensor) -> torch.Tensor:
        if self.size is not None and tuple(view.shape[-2:]) != self.size:
            view = resize(view, list(self.size), antialias=True)
        return view if self.postprocess is None else self.postprocess(view)

    def with_own_epoch(self) -> ReinforcedDataset:
        """Return the same dataset with a separate epoch.

        Images and shard set are shared. `copy.copy` shares the epoch too.
        """
        twin = copy.copy(self)
        twin._epoch = self._epoch.clone().share_memory_()
        twin._draws = Draws(len(self))
        return twin

    @staticmethod
    def collate(samples: Sequence[Sample]) -> tuple[Images, SparseTargets]:
        """Join samples into a batch: images ``[B, 3, H, W]`` and one `SparseTargets`.

        Pass it to DataLoader as ``collate_fn``; without it, torch raises "default_collate: batch
        must contain tensors".

        Returns:
            The images, a tensor (with `defer`, `DeferredViews`), and the targets.

        Raises:
            TypeError: `transform` and `postprocess` return images of different dtypes.
            SettingsMismatchError: With `defer`, the samples are of sets with different policies.
            WorkerError: Shared memory has no room for a worker's batch.
        """
        return collate(samples)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # a copy has its own workers

    def __repr__(self) -> str:
        return f"ReinforcedDataset({self.source!r}, {self.shards!r}, p={self.p})"


def _column(field: Field, records: np.ndarray, reinforced: np.ndarray) -> torch.Tensor:
    """A field of the reinforced images' records, and for the others what no answer has."""
    is_float = np.dtype(field.dtype).kind == "f"
    kind = np.result_type(field.dtype, np.float32) if is_float else np.dtype(np.int64)
    column = np.full((len(reinforced), *field.shape), np.nan if is_float else -1, kind)
    column[reinforced] = records[field.name]
    return torch.from_numpy(column)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if min(height, width) < 1:
        raise ValueError(f"size is {size}; expected pixels, or (height, width)")
    return height, width


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
