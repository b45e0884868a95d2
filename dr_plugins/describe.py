"""Describing a shard set in a few lines a person reads."""

from __future__ import annotations

import json

import numpy as np

from dr_plugins.reader import ShardSet

__all__ = ["agreement", "describe"]


def agreement(shards: ShardSet, number: int = 0) -> float | None:
    """Return how often the teacher's top class is the image's label, within one shard.

    A share near 1 / classes means that images and labels do not belong together.

    Args:
        shards: The shard set.
        number: Number of the shard.

    Returns:
        Share within ``[0, 1]`` over all records of unmixed views; None if no label is known.
    """
    records, rows = shards.records(number), shards.rows(number)
    labels = np.array([shards.image(row).label for row in rows])
    unmixed = np.ones(records.shape, bool)
    if shards.policy.mixings:
        unmixed = np.array(
            [[p.partner is None for p in shards.policy.decode(image)] for image in records]
        )
    usable = unmixed & (labels >= 0)[:, None]
    hits = records["ids"][..., 0] == labels[:, None]
    return float(hits[usable].mean()) if usable.any() else None


def describe(shards: ShardSet) -> str:
    """Return what a shard set is: size, policy, teachers, versions."""
    manifest = shards.manifest
    settings = manifest.settings
    files = [manifest.index, *manifest.shards]
    size = sum((shards.directory / entry.file).stat().st_size for entry in files)
    count = len(shards) * manifest.samples
    share = agreement(shards) if manifest.shards else None
    policy = settings["policy"]
    names = ", ".join(field.name for field in manifest.layout.fields)
    lines = {
        "images": f"{len(shards):,}, each with {manifest.samples} reinforcements",
        "classes": f"{manifest.num_classes:,}, the top {manifest.topk} stored",
        "views": "x".join(map(str, shards.policy.view_size))
        + f" pixels, backend {policy['backend']}",
        "policy": "\n".join(f"{k}: {json.dumps(v)}" for k, v in policy.items() if k != "backend"),
        "record": f"{manifest.layout.itemsize} bytes: {names}",
        "on disk": f"{size:,} bytes in {len(files):,} files, {size / max(count, 1):.1f} per record",
        "teachers": ", ".join(settings.get("teachers") or ["not named"]),
        "temperature": f"{settings.get('temperature', 1.0)}, precision {settings.get('precision')}",
        "teacher's top class is the label": "unknown"
        if share is None
        else f"{share:.1%} (first shard)",
        "made with": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "set id": manifest.set_id,
    }
    width = max(map(len, lines))
    return "\n".join(
        f"{name:<{width}}  " + text.replace("\n", "\n" + " " * (width + 2))
        for name, text in lines.items()
    )
