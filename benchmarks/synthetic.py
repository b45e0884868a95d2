"""Shard sets of realistic shape without a teacher, and the same content in ml-dr's layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dr_plugins import randomness
from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.records import RecordLayout, target_fields
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.claims import locked
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.shards.reader import ShardSet
from dr_plugins.shards.shard import Shard
from dr_plugins.transforms.operations import OPERATIONS

CLASSES = 1000


def make_empty_set(
    out: Path,
    policy: Policy,
    *,
    images: int,
    samples: int,
    topk: int = 10,
    classes: int = CLASSES,
    shards: int = 1,
) -> ShardSet:
    """Write a set of empty records, where what they hold costs neither time nor memory."""
    keys = KeyIndex.build(_names(images))
    layout = RecordLayout((*policy.fields, *target_fields(topk, classes)))
    each = -(-images // shards)
    with locked(out):
        output = OutputDirectory(out, set_settings(policy, samples, topk, classes), layout, keys)
        for number, first in enumerate(range(0, images, each)):
            output.add(number, Shard.empty(first, min(each, images - first), samples, layout))
        output.finish()
    return ShardSet(out)


def make_answered_set(out: Path, *, images: int, samples: int, shards: int) -> ShardSet:
    """Write a set whose answers, the top 10, are mostly among 40 classes around the image's own."""
    policy, rng = Policy.load("rrc"), np.random.default_rng(0)
    keys = KeyIndex.build(_names(images))
    layout = RecordLayout((*policy.fields, *target_fields(10, CLASSES)))
    each = -(-images // shards)
    with locked(out):
        output = OutputDirectory(out, set_settings(policy, samples, 10, CLASSES), layout, keys)
        for number, first in enumerate(range(0, images, each)):
            shard = Shard.empty(first, min(each, images - first), samples, layout)
            shape = shard.records.shape
            shard.labels[:] = np.arange(first, first + shape[0]) * CLASSES // images
            start = rng.integers(0, 4, shape) + shard.labels[:, None]
            order = rng.permuted(np.tile(np.arange(40), (64, 1)), axis=1)[:, :10]
            chosen = order[rng.integers(0, 64, shape)]
            shard.records["ids"] = (start[..., None] + chosen) % CLASSES
            sure = rng.uniform(0.2, 0.95, (*shape, 1))
            shard.records["probs"] = sure * (1 - sure) ** np.arange(10)
            output.add(number, shard)
        output.finish()
    return ShardSet(out)


def _names(images: int) -> Iterator[str]:
    for i in range(images):
        yield f"n{i % CLASSES:08d}/n{i % CLASSES:08d}_{i}.JPEG"


def set_settings(policy: Policy, samples: int, topk: int, classes: int) -> dict[str, Any]:
    return {
        "policy": policy.to_config(),
        "samples": samples,
        "topk": topk,
        "num_classes": classes,
        "class_names": None,
        "probs_dtype": "float16",
    }


def make_synthetic_set(
    out: Path, policy: Policy, *, images: int, samples: int, topk: int, shard_images: int = 256
) -> ShardSet:
    """Write a set of random reinforcements for 500x375 images with ImageNet-like keys."""
    return _write(out, policy, KeyIndex.build(_names(images)), samples, topk, shard_images)


def make_set_of(out: Path, root: Path, policy: Policy, samples: int, topk: int = 10) -> Path:
    """Write random reinforcements for the photographs below `root`, all of 500x375 pixels."""
    keys = KeyIndex.build(path.relative_to(root).as_posix() for path in root.rglob("*.JPEG"))
    _write(out, policy, keys, samples, topk, 256)
    return out


def _write(
    out: Path, policy: Policy, keys: KeyIndex, samples: int, topk: int, shard_images: int
) -> ShardSet:
    images = len(keys)
    layout = RecordLayout((*policy.fields, *target_fields(topk, CLASSES)))
    settings = set_settings(policy, samples, topk, CLASSES)
    partners = [(row, (375, 500)) for row in range(min(images, 8))]
    with locked(out):
        output = OutputDirectory(out, settings, layout, keys)
        for number, first in enumerate(range(0, images, shard_images)):
            shard = Shard.empty(first, min(shard_images, images - first), samples, layout)
            shard.sizes[:] = (375, 500)
            for position in range(len(shard.records)):
                _fill(shard.records[position], first + position, policy, partners)
            output.add(number, shard)
        output.finish()
    return ShardSet(out)


def _fill(records: np.ndarray, row: int, policy: Policy, partners: list[Any]) -> None:
    rng = randomness.image_generator(0, row, 0)
    for record in records:
        policy.encode(policy.sample(rng, (375, 500), partners), record)
    topk = records["ids"].shape[1]
    logits = torch.from_numpy(rng.normal(0, 2, (len(records), CLASSES)))
    top = logits.softmax(-1).topk(topk)
    records["ids"], records["probs"] = top.indices.numpy(), top.values.numpy()


def mldr_file(path: Path, shards: ShardSet, row: int) -> None:
    """Write one image's reinforcements as ml-dr does: a list of lists in a pickle, protocol 4."""
    records = shards.read(np.full(shards.manifest.samples, row), np.arange(shards.manifest.samples))
    content = [
        {"params": _compressed(params), "prob": (record["probs"].tolist(), record["ids"].tolist())}
        for params, record in zip(stored_policy(shards).decode(records), records, strict=True)
    ]
    torch.save((row, content), path, pickle_protocol=4)


def _compressed(params: AugmentParams) -> list[Any]:
    view = [_plain(value) for value in params.view]
    if params.partner is None:
        return view
    other = [_plain(value) for value in params.partner_view]
    pairs = [list(pair) for pair in zip(view, other, strict=True)]
    return [params.partner, *pairs, *(_plain(value) for value in params.mixing)]


def _operation(code: int) -> tuple[int, float]:
    strength = OPERATIONS[code & 127].magnitude(9, 31, (224, 224))
    return code & 127, strength if code < 128 else -strength


def _plain(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2:  # RandAugment: (operation, magnitude) pairs
        return [_operation(code) for code in value]
    return tuple(value) if isinstance(value, list) else value
