"""Planning a shard set: what decides its content, and its layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.generation.repeatable import check_repeatable, tolerance
from dr_plugins.generation.teachers import Ensemble, weights_digest
from dr_plugins.generation.views import ViewPlan
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy
from dr_plugins.records import BASIC_ANSWER, RecordLayout, answer_names, target_fields
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import MAX_SAMPLES

_TOPK = 10  # classes, where the user does not say


@dataclass(frozen=True)
class GenerationSettings:
    """Everything that determines the content of a shard set, except images and teacher.

    Attributes:
        policy: Augmentation of the views.
        samples: Reinforcements per image, S. The paper uses 400; 50 is as good for short training.
        topk: Classes stored for each reinforcement, k; None stores 10, or all if there are fewer.
        seed: Seed of all parameters, ``0 <= seed < 2**64``.
        probs_dtype: ``"float16"``, or the lossless ``"float32"``.
        batch_size: Views per forward pass of the teacher.
        shard_images: Images per shard; an interruption loses at most one shard.
        first_sample: Number of the first reinforcement. `merge` joins sets of consecutive samples
            to the set that is made at once.
        answer: What records store of the teacher's answer, see `ANSWER_FIELDS`; all by default.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> GenerationSettings(Policy.load("rrc", size=224), samples=50).seed
        0
    """

    policy: Policy
    samples: int = 400
    topk: int | None = None
    seed: int = 0
    probs_dtype: str = "float16"
    batch_size: int = 256
    shard_images: int = 1024
    first_sample: int = 0
    answer: tuple[str, ...] = field(default_factory=answer_names)

    def __post_init__(self) -> None:
        for name in ("samples", "topk", "batch_size", "shard_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if self.samples > MAX_SAMPLES:
            raise ValueError(f"samples is {self.samples}; expected at most {MAX_SAMPLES}")
        if not 0 <= self.first_sample <= MAX_SAMPLES - self.samples:
            raise ValueError(
                f"first_sample is {self.first_sample}; expected 0 to {MAX_SAMPLES - self.samples}"
            )
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed is {self.seed}; expected 0 <= seed < 2**64")


@dataclass(frozen=True)
class GenerationPlan:
    """A shard set that is to be made; the same in every process that makes a part of it.

    Attributes:
        source: The images.
        settings: What the user chose.
        keys: The images' keys, in row order.
        layout: Byte layout of a record.
        identity: All that decides the content: the settings of the manifest.
        views: Division into shards and batches.
    """

    source: ImageSource
    settings: GenerationSettings
    keys: KeyIndex
    layout: RecordLayout
    identity: dict[str, Any]
    views: ViewPlan

    @property
    def num_classes(self) -> int:
        """Number of classes the teacher knows."""
        return int(self.identity["num_classes"])

    @property
    def topk(self) -> int:
        """Number of classes stored for each reinforcement."""
        return int(self.identity["topk"])


def plan_generation(
    source: ImageSource,
    teacher: Ensemble,
    settings: GenerationSettings,
    *,
    teacher_specs: Sequence[str],
    device: torch.device,
    left_out: Sequence[str],
) -> GenerationPlan:
    """Lay out a shard set; the arguments are those of `reinforce`, the teacher is on `device`.

    Raises:
        DatasetMismatchError: Teacher and images disagree about the classes, or there are no images.
    """
    source = source.without(left_out)
    num_classes = _count_classes(teacher, settings.policy, source, device)
    topk = min(_TOPK, num_classes) if settings.topk is None else settings.topk
    targets = target_fields(topk, num_classes, settings.probs_dtype, settings.answer)
    layout = RecordLayout((*settings.policy.fields, *targets))
    if not len(source):
        raise DatasetMismatchError("the dataset has no images to reinforce")
    keys = KeyIndex.build(source.keys)
    identity = {
        **_settings_entries(settings),
        "topk": topk,
        "num_classes": num_classes,
        "class_names": source.class_names,
        "teachers": list(teacher_specs),
        **_describe_teacher(teacher),
        "device": device.type,
        "images": len(keys),
        "keys": keys.digest(),
        **({"left_out": sorted(set(left_out))} if left_out else {}),
    }
    views = ViewPlan(
        len(keys),
        settings.samples,
        settings.shard_images,
        settings.batch_size,
        settings.first_sample,
    )
    return GenerationPlan(source, settings, keys, layout, identity, views)


def _count_classes(
    teacher: Ensemble, policy: Policy, source: ImageSource, device: str | torch.device
) -> int:
    """Classes of the teacher, which must not be random, neither within a batch nor between them."""
    # Noise, since a flipped or shifted blank view is the same.
    noise = torch.randint(256, (3, *policy.view_size), generator=torch.Generator().manual_seed(0))
    views = noise.to(device, torch.uint8).repeat(2, 1, 1, 1)
    probs, again = (teacher(views.clone()) for _ in range(2))  # it may modify its input
    limit = tolerance(views.device.type, _precision(teacher))
    check_repeatable(probs[0], probs[1], limit)
    check_repeatable(probs, again, limit)
    count = probs.shape[1]
    names = source.class_names
    if names is not None and len(names) != count:
        raise DatasetMismatchError(
            f"the images have {len(names)} classes, the teacher {count}: use a teacher of the same "
            f"classes, or list all classes in label order in a class map"
        )
    return count


def _settings_entries(settings: GenerationSettings) -> dict[str, Any]:
    described = {name: value for name, value in vars(settings).items() if name != "policy"}
    if not settings.first_sample:
        del described["first_sample"]
    if settings.answer == BASIC_ANSWER:
        del described["answer"]
    else:
        described["answer"] = list(settings.answer)
    return {"policy": settings.policy.to_config(), **described}


def _describe_teacher(teacher: Ensemble) -> dict[str, Any]:
    return {
        "weights": weights_digest(teacher),
        "temperature": teacher.temperature,
        "precision": _precision(teacher),
        "compiled": teacher.compiled,
    }


def _precision(teacher: Ensemble) -> str:
    return str(teacher.autocast or torch.float32).removeprefix("torch.")
