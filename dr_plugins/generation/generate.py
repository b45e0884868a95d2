"""Generating a shard set: augments every image and stores the teacher's answers in shards.

Worker processes decode the images and draw the parameters. They or the teacher's device make the
views. Answers are copied and stored while the teacher works on the next batch. The views of a batch
depend on the settings alone, not on the number of workers or on where an interrupted run stopped,
so a resumed run produces the same set as an uninterrupted one.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dr_plugins.errors import DatasetMismatchError, ReinforcementError
from dr_plugins.generation.agreement import check_agreement, measure_agreement
from dr_plugins.generation.background import Background
from dr_plugins.generation.predictor import Prediction, Predictor
from dr_plugins.generation.readable import CHECKS, check_readable, log_images
from dr_plugins.generation.resuming import asked_again, check_answers, check_views
from dr_plugins.generation.shard_builder import ShardBuilder
from dr_plugins.generation.teachers import Ensemble, weights_digest
from dr_plugins.generation.view_maker import ViewMaker
from dr_plugins.generation.views import ViewBatch, ViewBatches, ViewPlan
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy
from dr_plugins.records import RecordLayout, target_fields
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import MAX_SAMPLES, Manifest
from dr_plugins.shards.output import OutputDirectory, finished_set, locked
from dr_plugins.utils.workers import alive, check_room, noticing_dead_workers

__all__ = ["GenerationSettings", "reinforce"]

# Always images per second: tqdm inverts slow rates by default.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
# Answers in flight: enough to keep the teacher busy, few enough to bound memory.
_UNFINISHED = {"cuda": 2}
_VIEWS_ON = (None, "workers", "device")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationSettings:
    """Everything that determines the content of a shard set, except images and teacher.

    Attributes:
        policy: Augmentation of the views.
        samples: Reinforcements per image, S. The paper uses 400; 50 is as good for short training.
        topk: Classes stored for each reinforcement, k.
        seed: Seed of all parameters, ``0 <= seed < 2**64``.
        probs_dtype: ``"float16"``, or the lossless ``"float32"``.
        batch_size: Views per forward pass of the teacher.
        shard_images: Images per shard; an interruption loses at most one shard.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> GenerationSettings(Policy.load("rrc", size=224), samples=50).topk
        10
    """

    policy: Policy
    samples: int = 400
    topk: int = 10
    seed: int = 0
    probs_dtype: str = "float16"
    batch_size: int = 256
    shard_images: int = 1024

    def __post_init__(self) -> None:
        for name in ("samples", "topk", "batch_size", "shard_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.samples > MAX_SAMPLES:
            raise ValueError(f"samples is {self.samples}; expected at most {MAX_SAMPLES}")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed is {self.seed}; expected 0 <= seed < 2**64")


def reinforce(
    source: ImageSource,
    teacher: Ensemble,
    out: str | PathLike[str],
    settings: GenerationSettings,
    *,
    teacher_specs: Sequence[str] = (),
    device: str | torch.device = "cpu",
    workers: int = 0,
    views_on: str | None = None,
    min_agreement: float | None = None,
    left_out: Sequence[str] = (),
    check_images: str | None = "quick",
    progress: bool = False,
) -> Manifest:
    """Generate a shard set, or resume an interrupted one.

    Args:
        source: The training images.
        teacher: Answers the views; its weights become part of the set's identity.
        out: Directory of the set; created if needed.
        settings: Settings of the set.
        teacher_specs: Names of the teachers, for the manifest.
        device: Where the teacher runs.
        workers: Processes that decode and augment; 0 uses this process.
        views_on: Where the views are made, with identical bits: ``"workers"``; or ``"device"``, the
            teacher's, while workers only decode. None means the device if it is a CUDA device.
        min_agreement: Least share of a sample of views in which the teacher's top class is the
            label; see `check_agreement`. 0 skips the check.
        left_out: Keys of images to leave out. They become part of the set's identity, so training
            leaves them out too.
        check_images: How to look for unreadable images before the teacher starts: ``"quick"``
            checks their beginnings and ends, ``"full"`` decodes them, None skips the check.
        progress: Show a progress bar.

    Returns:
        The manifest of the complete set.

    Raises:
        DatasetMismatchError: Teacher and images have different classes, or there are no images.
        ImageReadError: Images cannot be read; finished shards are kept.
        SettingsMismatchError: `out` holds a set with other settings, or shards of another teacher.
        ImageChangedError: An image has changed since its finished shard was made.
        TeacherError: The teacher's answers are not logits ``[B, C]``, or not reproducible.
        LockedError: Another generator writes to `out`.
        OutputError: A file cannot be written; finished shards are kept.
        DeviceMismatchError: The views of device and CPU differ.
        WorkerError: A worker died, or shared memory is too small for the workers' batches.
        ValueError: `views_on` or `check_images` is not one of the choices.

    Example:
        >>> policy = Policy.load("randaug", size=224)
        >>> reinforce(open_source("imagenet/train"),                        # doctest: +SKIP
        ...           Ensemble([load_teacher("timm:resnet50")]),
        ...           "imagenet-plus", GenerationSettings(policy), workers=8)
    """
    if views_on not in _VIEWS_ON:
        raise ValueError(f"views_on is {views_on!r}; expected one of {_VIEWS_ON}")
    if check_images not in (None, *CHECKS):
        raise ValueError(f"check_images is {check_images!r}; expected one of {(None, *CHECKS)}")
    source = source.without(left_out)
    device = torch.device(device)
    teacher = teacher.to(device)
    num_classes = _count_classes(teacher, settings.policy, source, device)
    targets = target_fields(settings.topk, num_classes, settings.probs_dtype)
    layout = RecordLayout((*settings.policy.fields, *targets))
    if not len(source):
        raise DatasetMismatchError("the dataset has no images to reinforce")
    keys = KeyIndex.build(source.keys)
    identity = {
        **_settings_entries(settings),
        "num_classes": num_classes,
        "class_names": source.class_names,
        "teachers": list(teacher_specs),
        **_describe_teacher(teacher),
        "device": device.type,
        "images": len(keys),
        "keys": keys.digest(),
        **({"left_out": sorted(set(left_out))} if left_out else {}),
    }
    log_images(source)
    if complete := finished_set(Path(out), identity):
        _logger.info("%s is already complete", out)
        return complete
    with locked(Path(out)):
        output = OutputDirectory(Path(out), identity, layout, keys)
        plan = ViewPlan(len(keys), settings.samples, settings.shard_images, settings.batch_size)
        pending = [n for n in range(plan.shards) if not output.keep(n, *_place(plan, n))]
        if check_images is not None:
            rows = itertools.chain.from_iterable(map(plan.rows, pending))
            options = {"workers": workers, "progress": progress}
            _check_images(source, keys, rows, check_images, **options)
        if min_agreement != 0:
            agreement = measure_agreement(source, teacher, settings.policy, device)
            check_agreement(agreement, num_classes, min_agreement)
        whole = views_on == "workers" if views_on else device.type != "cuda"

        def make(shards: Sequence[int]) -> ViewBatches:
            return ViewBatches(
                source, keys, plan, shards, settings.policy, layout, settings.seed, whole
            )

        feed = ViewMaker(settings.policy, layout, device)
        ask = Predictor(teacher, num_classes, settings.topk, settings.batch_size)
        finished = sorted(set(range(plan.shards)) - set(pending))
        if pending and finished:
            again = make(asked_again(finished))
            for batch in _batches(again.first_of_each()):
                shard = output.stored(batch.shard, *_place(plan, batch.shard))
                views = feed(batch).take()
                check_views(batch, shard, layout, keys, views)
                check_answers(batch, shard, ask, views, identity["precision"], Path(out))
        filler = ShardBuilder(output, plan, layout, keys, num_classes)
        with _bar(plan, pending, progress) as bar:
            _fill(filler, _batches(_loader(make(pending), workers, device)), feed, ask, device, bar)
        return output.finish()


def _check_images(
    source: ImageSource, keys: KeyIndex, rows: Iterable[int], check: str, **options: Any
) -> None:
    """Check the images of some rows, with the `options` of `check_readable`."""
    positions = keys.rows(source.keys).argsort()[list(rows)]
    check_readable(source, positions.tolist(), check=check, **options)


def _loader(batches: ViewBatches, workers: int, device: torch.device) -> DataLoader[Any]:
    check_room(workers, len(batches), batches.batch_bytes)
    pinned = device.type == "cuda"
    return DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=pinned)


def _fill(
    filler: ShardBuilder,
    batches: Iterable[ViewBatch],
    feed: ViewMaker,
    ask: Predictor,
    device: torch.device,
    bar: Any,
) -> None:
    """Predict and store all batches; on CUDA, views, answers and storing overlap."""

    def store(answer: Prediction) -> None:
        bar.update(filler.add(answer))

    with noticing_dead_workers(), Background(_UNFINISHED.get(device.type, 0)) as background:
        for batch in batches:
            background.call(store, ask(batch, feed(batch)))


def _bar(plan: ViewPlan, pending: Sequence[int], shown: bool) -> Any:
    done = plan.images - sum(len(plan.rows(number)) for number in pending)
    if done:
        kept = plan.shards - len(pending)
        _logger.info("resuming: %d of %d shards are finished", kept, plan.shards)
    return tqdm(
        desc=f"{plan.samples} views of each image",
        total=plan.images,
        initial=done,
        unit=" images",
        bar_format=_BAR,
        disable=not shown,
    )


def _batches(loader: Iterable[Any]) -> Iterator[ViewBatch]:
    for batch in alive(loader):
        if isinstance(batch, ReinforcementError):
            raise batch
        yield batch


def _place(plan: ViewPlan, number: int) -> tuple[tuple[int, int], int]:
    """The shape of a shard, (images, S), and the row of its first image."""
    rows = plan.rows(number)
    return (len(rows), plan.samples), rows.start


def _count_classes(
    teacher: Ensemble, policy: Policy, source: ImageSource, device: str | torch.device
) -> int:
    blank = torch.zeros(1, 3, *policy.view_size, dtype=torch.uint8, device=device)
    count = teacher(blank).shape[1]
    names = source.class_names
    if names is not None and len(names) != count:
        raise DatasetMismatchError(
            f"the images have {len(names)} classes, the teacher {count}: use a teacher of the same "
            f"classes, or list all classes in label order in a class map"
        )
    return count


def _settings_entries(settings: GenerationSettings) -> dict[str, Any]:
    others = {name: value for name, value in vars(settings).items() if name != "policy"}
    return {"policy": settings.policy.to_config(), **others}


def _describe_teacher(teacher: Ensemble) -> dict[str, Any]:
    return {
        "weights": weights_digest(teacher),
        "temperature": teacher.temperature,
        "precision": str(teacher.autocast or torch.float32).removeprefix("torch."),
        "compiled": teacher.compiled,
    }
