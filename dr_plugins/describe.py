"""Describing a shard set in a few lines a person reads."""

from __future__ import annotations

import json

import numpy as np

from dr_plugins.reader import ShardSet

__all__ = ["agreement", "describe"]

_EXAMPLES = 3  # keys and class names shown


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
    """Return what a shard set is: size, policy, teachers, versions.

    Raises:
        FormatError: The key index or the first shard is missing or damaged.
    """
    manifest = shards.manifest
    settings = manifest.settings
    share = agreement(shards) if manifest.shards else None
    policy, class_names = settings["policy"], settings["class_names"] or ["unknown"]
    names = ", ".join(field.name for field in manifest.layout.fields)
    lines = {
        "images": f"{len(shards):,}, each with {manifest.samples} reinforcements",
        "keys": _few(shards.keys[:_EXAMPLES], len(shards)),
        "classes": f"{manifest.num_classes:,}, the top {manifest.topk} stored",
        "class names": _few(class_names[:_EXAMPLES], len(class_names)),
        "views": "x".join(map(str, shards.policy.view_size))
        + f" pixels, backend {policy['backend']}",
        "policy": "\n".join(f"{k}: {json.dumps(v)}" for k, v in policy.items() if k != "backend"),
        "record": f"{manifest.layout.itemsize} bytes: {names}",
        "on disk": _space(shards),
        "teachers": ", ".join(settings.get("teachers") or ["not named"]),
        "temperature": f"{settings.get('temperature', 1.0)}, precision {settings.get('precision')}",
        "agreement": "unknown"
        if share is None
        else f"the teacher's top class is the label in {share:.1%} of the first shard",
        "made with": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "set id": manifest.set_id,
    }
    width = max(map(len, lines))
    return "\n".join(
        f"{name:<{width}}  " + text.replace("\n", "\n" + " " * (width + 2))
        for name, text in lines.items()
    )


def _few(examples: list[str], count: int) -> str:
    return ", ".join(examples) + (", ..." if count > len(examples) else "")


def _space(shards: ShardSet) -> str:
    files = [shards.directory / e.file for e in (shards.manifest.index, *shards.manifest.shards)]
    there = [file for file in files if file.exists()]
    size, records = sum(f.stat().st_size for f in there), len(shards) * shards.manifest.samples
    if len(there) < len(files):
        missing = next(file.name for file in files if not file.exists())
        return f"{len(files) - len(there):,} of {len(files):,} files are missing, such as {missing}"
    return f"{size:,} bytes in {len(files):,} files, {size / max(records, 1):.1f} per record"
