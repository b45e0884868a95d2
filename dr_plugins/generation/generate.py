"""Generating a shard set: views made by worker processes, answered by the teacher, kept by shard.

Which views make up a batch depends on the settings alone, never on the number of workers or on
where an interrupted run stopped; so a resumed run gives the result of an uninterrupted one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dr_plugins.errors import DatasetMismatchError, ReinforcementError, WorkerError
from dr_plugins.generation.agreement import check_agreement, least_agreement, measure_agreement
from dr_plugins.generation.teachers import Ensemble, weights_digest
from dr_plugins.generation.views import ImageFact, ViewBatch, ViewBatches, ViewPlan
from dr_plugins.policy import Policy
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.output import OutputDirectory, locked
from dr_plugins.shards.records import RecordLayout, target_fields
from dr_plugins.shards.shard import Shard
from dr_plugins.sources import ImageSource

__all__ = ["GenerationSettings", "reinforce"]

# Always images per second: tqdm alone turns slow rates around.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationSettings:
    """What determines the content of a shard set, besides images and teacher.

    Attributes:
        policy: What is done to each view.
        samples: Reinforcements per image, S. The paper uses 400; 50 is as good for short training.
        topk: Classes stored for each reinforcement, k.
        seed: Seed of all parameters, ``0 <= seed < 2**64``.
        probs_dtype: ``"float16"``, or the lossless ``"float32"``.
        batch_size: Views per forward pass of the teacher.
        shard_images: Images per shard; what an interruption can lose.

    Raises:
        ValueError: A value is out of range.
    """

    policy: Policy
    samples: int = 400
    topk: int = 10
    seed: int = 0
    probs_dtype: str = "float16"
    batch_size: int = 256
    shard_images: int = 256

    def __post_init__(self) -> None:
        for name in ("samples", "topk", "batch_size", "shard_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 was expected")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed is {self.seed}; 0 <= seed < 2**64 was expected")


def reinforce(
    source: ImageSource,
    teacher: Ensemble,
    out: str | PathLike[str],
    settings: GenerationSettings,
    *,
    teacher_specs: Sequence[str] = (),
    device: str | torch.device = "cpu",
    workers: int = 0,
    min_agreement: float | None = None,
    progress: bool = False,
) -> Manifest:
    """Make a shard set, or go on with one that was interrupted.

    Args:
        source: The training images.
        teacher: Answers the views; its weights become part of the set's identity.
        out: Directory of the set; created if needed.
        settings: What the set shall be.
        teacher_specs: Names of the teachers, for the manifest.
        device: Where the teacher runs.
        workers: Processes that decode and augment; 0 does it in this one.
        min_agreement: Least share of a sample of views in which the teacher's top class is the
            label; see `check_agreement`. 0 leaves the check out.
        progress: Show a progress bar.

    Returns:
        The manifest of the complete set.

    Raises:
        DatasetMismatchError: Teacher and images disagree about the classes, or there are no images.
        ImageReadError: An image cannot be read; finished shards are kept.
        SettingsMismatchError: `out` holds a set with other settings.
        LockedError: Another generator writes to `out`.
        OutputError: A file cannot be written; finished shards are kept.

    Example:
        >>> policy = Policy.load("randaug", size=224)
        >>> reinforce(open_source("imagenet/train"),                        # doctest: +SKIP
        ...           Ensemble([load_teacher("timm:resnet50")]),
        ...           "imagenet-plus", GenerationSettings(policy), workers=8)
    """
    teacher = teacher.to(device)
    num_classes = _count_classes(teacher, settings.policy, source, device)
    layout = RecordLayout(
        (
            *settings.policy.fields,
            *target_fields(settings.topk, num_classes, settings.probs_dtype),
        )
    )
    if not len(source):
        raise DatasetMismatchError("there are no images to reinforce")
    keys = KeyIndex.build(source.keys)
    identity = {
        **_describe(settings),
        "num_classes": num_classes,
        "class_names": source.class_names,
        "teachers": list(teacher_specs),
        "weights": weights_digest(teacher),
        "temperature": teacher.temperature,
        "precision": str(teacher.autocast or torch.float32).removeprefix("torch."),
        "device": torch.device(device).type,
        "images": len(keys),
        "keys": keys.digest(),
    }
    with locked(Path(out)):
        output = OutputDirectory(Path(out), identity, layout, keys)
        if output.is_finished:
            _logger.info("%s is already complete", out)
            return Manifest.load(Path(out))
        if least_agreement(num_classes, min_agreement) > 0:
            share = measure_agreement(source, teacher, settings.policy, device)
            check_agreement(share, num_classes, min_agreement)
        plan = ViewPlan(len(keys), settings.samples, settings.shard_images, settings.batch_size)
        pending = [n for n in range(plan.shards) if not _keep(output, plan, n)]
        batches = ViewBatches(source, keys, plan, pending, settings.policy, layout, settings.seed)
        loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            pin_memory=torch.device(device).type == "cuda",
        )
        done = plan.images - sum(len(plan.rows(n)) for n in pending)
        if done:
            kept = plan.shards - len(pending)
            _logger.info("resuming: %d of %d shards are finished", kept, plan.shards)
        with tqdm(
            desc=f"{settings.samples} views of each image",
            total=plan.images,
            initial=done,
            unit=" images",
            bar_format=_BAR,
            disable=not progress,
        ) as bar:
            answers = _answers(loader, teacher, device)
            for number, shard in _shards(answers, plan, layout, keys, bar):
                output.add(number, shard)
        return output.finish()


def _answers(
    loader: Iterable[Any], teacher: Ensemble, device: str | torch.device
) -> Iterator[tuple[ViewBatch, torch.Tensor]]:
    """Yield each batch of views with the teacher's probabilities ``[B, C]``."""
    for batch in _alive(loader):
        if isinstance(batch, ReinforcementError):
            raise batch
        yield batch, teacher(batch.views.to(device, non_blocking=True))


def _alive(loader: Iterable[Any]) -> Iterator[Any]:
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise WorkerError(
                f"a worker process died ({error}). Perhaps memory ran out: try fewer workers. "
                f"Finished shards are kept; the same command goes on after them."
            ) from error
        yield batch


def _shards(
    answers: Iterable[tuple[ViewBatch, torch.Tensor]],
    plan: ViewPlan,
    layout: RecordLayout,
    keys: KeyIndex,
    bar: Any,
) -> Iterator[tuple[int, Shard]]:
    """Yield the number and the content of each shard as soon as its last batch is answered."""
    shard: Shard | None = None
    for batch, probs in answers:
        rows = plan.rows(batch.shard)
        if shard is None:
            shard = Shard.empty(rows.start, len(rows), plan.samples, layout)
        stop = _store(shard, batch, probs, layout)
        _note(shard, batch.facts, probs.shape[1], keys)
        bar.update(stop // plan.samples - batch.first // plan.samples)
        if stop == len(rows) * plan.samples:
            yield batch.shard, shard
            shard = None


def _store(shard: Shard, batch: ViewBatch, probs: torch.Tensor, layout: RecordLayout) -> int:
    """Put the teacher's answers into the shard; returns where the batch ends in it."""
    records = batch.records.numpy().view(layout.dtype)[:, 0]
    top = probs.topk(records["ids"].shape[1], dim=1)
    records["probs"] = top.values.cpu().numpy()
    records["ids"] = top.indices.cpu().numpy()
    stop = batch.first + len(records)
    shard.records.reshape(-1)[batch.first : stop] = records
    return stop


def _note(shard: Shard, facts: list[ImageFact], num_classes: int, keys: KeyIndex) -> None:
    for fact in facts:
        if fact.label >= num_classes:
            raise DatasetMismatchError(
                f"image {keys[fact.row]!r} has label {fact.label}, the teacher knows {num_classes} "
                f"classes; use a teacher of the dataset's classes"
            )
        position = fact.row - shard.first_row
        shard.labels[position] = fact.label
        shard.sizes[position] = fact.size
        if fact.fingerprint is not None:
            shard.fingerprints[position] = np.frombuffer(fact.fingerprint, np.uint8)


def _keep(output: OutputDirectory, plan: ViewPlan, number: int) -> bool:
    rows = plan.rows(number)
    return output.keep(number, (len(rows), plan.samples), rows.start)


def _count_classes(
    teacher: Ensemble, policy: Policy, source: ImageSource, device: str | torch.device
) -> int:
    blank = torch.zeros(1, 3, *policy.view_size, dtype=torch.uint8, device=device)
    count = teacher(blank).shape[1]
    names = source.class_names
    if names is not None and len(names) != count:
        raise DatasetMismatchError(
            f"the images have {len(names)} classes, the teacher {count}: use a teacher of the same "
            f"classes, or name all classes in label order with a class map"
        )
    return count


def _describe(settings: GenerationSettings) -> dict[str, Any]:
    described = {name: value for name, value in vars(settings).items() if name != "policy"}
    return {"policy": settings.policy.to_config(), **described}
