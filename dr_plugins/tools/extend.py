"""Extending a finished shard set by the same settings: more reinforcements, more images."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dr_plugins.errors import DatasetMismatchError, SettingsMismatchError
from dr_plugins.generation.generate import reinforce
from dr_plugins.generation.planning import GenerationSettings, plan_generation
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.replay.replayer import Replayer, known_images
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.manifest import Manifest, settings_digest
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.deriving import shard_size
from dr_plugins.tools.fitting import check_same
from dr_plugins.tools.merge import merge
from dr_plugins.utils.files import MANIFEST_NAME
from dr_plugins.utils.quoting import quoted

_PARTS = ".parts"  # folder of the sets that are generated, within the result while it is made
_COMPARED = 64  # images whose fingerprint is compared before the teacher starts
_logger = logging.getLogger(__name__)


def extend(
    directory: str | PathLike[str],
    source: ImageSource,
    teacher: Ensemble,
    out: str | PathLike[str],
    *,
    samples: int | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
    views_on: str | None = None,
    check_images: str | None = "quick",
    progress: bool = False,
) -> Manifest:
    """Make a larger set of a finished one, or resume an interrupted run.

    Images of `source` that are not in the set are added, and all images get `samples`
    reinforcements. What is stored is copied, everything else is generated with the set's settings
    and merged. If the policy does not mix images, the records are those of generating everything at
    once, provided that the teacher's answer to a view does not depend on the other views of its
    batch. In policies with mixing, the partners of added images are added images.

    Args:
        directory: The finished set.
        source: The images: those to add, and if `samples` grows, also those of the set.
        teacher: The set's teacher, with its temperature and precision; on any device.
        out: Directory of the new set; created if needed.
        samples: Reinforcements per image of the new set; None keeps the set's number.
        device: See `reinforce`, as for all that follow.
        workers: Processes that decode and augment.
        views_on: Where the views are made.
        check_images: How to look for unreadable images.
        progress: Show progress bars.

    Returns:
        The manifest of the complete set.

    Raises:
        SettingsMismatchError: The teacher is not the set's, the seed is not known, there is nothing
            to add, or `out` holds another set.
        DatasetMismatchError: `source` misses images of the set, or has other classes.
        ImageChangedError: An image of the set has changed.
        ReinforcementError: See `reinforce` and `merge`.

    Example:
        >>> extend("imagenet-plus", open_source("imagenet/train"), teacher,   # doctest: +SKIP
        ...        "imagenet-plus-800", samples=800)
    """
    shards = ShardSet(directory)
    source = known_images(source, shards)
    settings = _settings(shards, samples)
    parts = _parts(shards, source, settings)
    device = torch.device(device)
    teacher = teacher.to(device)
    stored = shards.manifest.settings
    specs = stored["teachers"]
    ids = [shards.manifest.set_id]
    for part in parts.values():
        plan = plan_generation(
            part.source, teacher, part.settings, teacher_specs=specs, device=device, left_out=()
        )
        check_same(stored, plan.identity, shards.location, "the teacher and images given")
        ids.append(settings_digest(plan.identity))
    if complete := _complete(Path(out), ids):
        return complete
    if "views" in parts:
        _check_images(Replayer(parts["views"].source, shards))
    for name, part in parts.items():
        _logger.info("%s: %d images x %d", name, len(part.source), part.settings.samples)
        reinforce(
            part.source,
            teacher,
            os.path.join(out, _PARTS, name),
            part.settings,
            teacher_specs=specs,
            device=device,
            workers=workers,
            views_on=views_on,
            min_agreement=0,  # weights and classes are those of the set
            check_images=check_images,
            progress=progress,
        )
    made = [os.path.join(out, _PARTS, name) for name in parts]
    manifest = merge([directory, *made], out, progress=progress)
    shutil.rmtree(Path(out) / _PARTS)
    return manifest


@dataclasses.dataclass(frozen=True)
class _Part:
    """What is generated."""

    source: ImageSource
    settings: GenerationSettings


def _settings(shards: ShardSet, samples: int | None) -> GenerationSettings:
    """The settings that all images have in the end."""
    stored, there = shards.manifest.settings, shards.manifest.samples
    for name in ("seed", "batch_size", "weights"):
        if stored.get(name) is None:
            raise SettingsMismatchError(
                f"{shards.location} does not say its {name}, so nothing can be added by the same "
                f"settings; make another set (dr-plugins reinforce) and merge them"
            )
    if samples is not None and samples < there:
        raise SettingsMismatchError(
            f"samples is {samples}, but {shards.location} has {there}; for fewer use "
            f"dr-plugins subset"
        )
    return GenerationSettings(
        stored_policy(shards),
        samples=samples or there,
        topk=shards.manifest.topk,
        seed=stored["seed"],
        probs_dtype=stored["probs_dtype"],
        batch_size=stored["batch_size"],
        shard_images=shard_size(shards.manifest),
        first_sample=stored.get("first_sample", 0),
        answer=shards.manifest.answer,
    )


def _parts(shards: ShardSet, source: ImageSource, settings: GenerationSettings) -> dict[str, _Part]:
    """What there is to generate, by name."""
    known = {key for key in source.keys if key in shards.keys}
    new = [key for key in source.keys if key not in known]
    parts: dict[str, _Part] = {}
    missing = settings.samples - shards.manifest.samples
    if missing:
        old = source.without(new)
        if len(old) < len(shards):
            absent = next(key for key in shards.keys if key not in known)
            raise DatasetMismatchError(
                f"{len(shards) - len(old)} images of {shards.location} are not among those given, "
                f"such as {quoted(absent)}; adding reinforcements needs all of them"
            )
        first = settings.first_sample + shards.manifest.samples
        more = dataclasses.replace(settings, samples=missing, first_sample=first)
        parts["views"] = _Part(old, more)
    if new:
        parts["images"] = _Part(source.without(known), settings)
    if not parts:
        raise SettingsMismatchError(
            f"there is nothing to add to {shards.location}: it has all {len(source)} images and "
            f"{shards.manifest.samples} reinforcements of each"
        )
    return parts


def _complete(out: Path, ids: list[str]) -> Manifest | None:
    """The finished set, whose parts are gone."""
    if not os.path.exists(out / MANIFEST_NAME):
        return None
    manifest = Manifest.load(out)
    history: dict[str, Any] = manifest.settings.get("history", {"sets": []})
    if [one["set_id"] for one in history["sets"]] != ids:
        raise SettingsMismatchError(
            f"{out} holds another set ({manifest.set_id}); choose another directory"
        )
    files = (manifest.index, *manifest.shards)
    return manifest if all((out / entry.file).exists() for entry in files) else None


def _check_images(replayer: Replayer) -> None:
    """Compare some images with their fingerprints; `merge` compares all sizes and labels."""
    total = len(replayer.source)
    for index in np.unique(np.linspace(0, total - 1, min(_COMPARED, total)).round().astype(int)):
        replayer.compare(int(index))
