"""Describing a shard set in a few lines of text."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np

from dr_plugins.generation.agreement import label_agreement
from dr_plugins.policies.policy import Policy
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.history import described
from dr_plugins.shards.reader import ShardSet

_EXAMPLES = 3  # keys and class names shown


def describe(shards: ShardSet) -> str:
    """Return a description of a shard set: size, policy, teachers, versions.

    Raises:
        FormatError: The key index or the first shard is missing or damaged.

    Example:
        >>> print(describe(ShardSet("imagenet-plus")))                      # doctest: +SKIP
    """
    manifest = shards.manifest
    settings = manifest.settings
    policy, config = stored_policy(shards), settings["policy"]
    class_names = settings["class_names"] or ["unknown"]
    share = _agreement_of_first_shard(shards, policy)
    names = ", ".join(field.name for field in manifest.layout.fields)
    lines = {
        "images": f"{len(shards):,}, each with {manifest.samples} reinforcements"
        + (f"; {len(manifest.left_out):,} were left out" if manifest.left_out else ""),
        "keys": _few(shards.keys[:_EXAMPLES], len(shards)),
        "classes": f"{manifest.num_classes:,}, the top {manifest.topk} stored",
        "class names": _few(class_names[:_EXAMPLES], len(class_names)),
        "views": "x".join(map(str, policy.view_size)) + f" pixels, backend {policy.backend}",
        "policy": "\n".join(f"{k}: {json.dumps(v)}" for k, v in config.items() if k != "backend"),
        "record": f"{manifest.layout.itemsize} bytes: {names}",
        "on disk": _space(shards),
        "teachers": ", ".join(settings.get("teachers") or ["not named"]),
        "temperature": f"{settings.get('temperature', 1.0)}, precision {settings.get('precision')}",
        "agreement": "unknown"
        if share is None
        else f"the teacher's top class is the label in {share:.1%} of the first shard",
        **_origin(settings.get("origin"), bool(policy.mixings)),
        **({"history": "\n".join(described(settings["history"]))} if "history" in settings else {}),
        "made with": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "set id": manifest.set_id,
    }
    width = max(map(len, lines))
    return "\n".join(
        f"{name:<{width}}  " + text.replace("\n", "\n" + " " * (width + 2))
        for name, text in lines.items()
    )


def _origin(origin: dict[str, Any] | None, mixes: bool) -> dict[str, str]:
    """The origin of an imported set."""
    if not origin:
        return {}
    names = ", ".join(archive["name"] for archive in origin["archives"])
    # ml-dr mixes after normalizing; our views are integers.
    rounding = "; mixed views are rounded, by up to half a level" if mixes else ""
    return {"origin": f"{origin['format']}, {names}{rounding}"}


def _few(examples: list[str], count: int) -> str:
    return ", ".join(examples) + (", ..." if count > len(examples) else "")


def _space(shards: ShardSet) -> str:
    files = [entry.file for entry in (shards.manifest.index, *shards.manifest.shards)]
    sizes: dict[str, int] = {}
    with contextlib.suppress(OSError):  # a server that lists nothing
        sizes = shards.location.sizes()
    for file in files:
        if file not in sizes and (shards.location / file).exists():
            sizes[file] = (shards.location / file).size()
    missing = [file for file in files if file not in sizes]
    if missing:
        return f"{len(missing):,} of {len(files):,} files are missing, such as {missing[0]}"
    size, records = sum(sizes[file] for file in files), len(shards) * shards.manifest.samples
    return f"{size:,} bytes in {len(files):,} files, {size / max(records, 1):.1f} per record"


def _agreement_of_first_shard(shards: ShardSet, policy: Policy) -> float | None:
    if not shards.manifest.shards:
        return None
    labels = np.array([shards.image(row).label for row in shards.rows(0)])
    return label_agreement(policy, shards.records(0), labels)
