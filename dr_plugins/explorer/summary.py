"""What a shard set is and how it was made, for the page."""

from __future__ import annotations

import json

from dr_plugins.policies.policy import Policy
from dr_plugins.shards.history import described
from dr_plugins.shards.reader import ShardSet

Facts = list[tuple[str, list[str]]]


def about(shards: ShardSet, policy: Policy) -> Facts:
    """Return (what, lines) of a set: its policy, teachers and versions."""
    manifest, settings = shards.manifest, shards.manifest.settings
    config = {k: v for k, v in settings["policy"].items() if k != "backend"}
    left_out = len(manifest.left_out)
    facts = {
        "Images": [f"{len(shards):,}" + (f", {left_out:,} were left out" if left_out else "")],
        "Views of each image": [f"{manifest.samples:,}"],
        "Size of a view": ["{} × {} pixels".format(*policy.view_size)],
        "Classes": [f"{manifest.num_classes:,}, the {manifest.topk} most probable are stored"],
        "Policy": [f"{name}: {_values(values)}" for name, values in config.items()],
        "Backend": [policy.backend],
        "Teachers": settings.get("teachers") or ["not named"],
        "Temperature": [f"{manifest.temperature:g}"],
        "Precision": [str(settings.get("precision", "unknown"))],
        "Seed": [str(settings.get("seed", "unknown"))],
        "Record": [
            f"{manifest.layout.itemsize} bytes: "
            + ", ".join(field.name for field in manifest.layout.fields)
        ],
        "History": list(described(settings["history"])) if "history" in settings else [],
        "Made with": [f"{name} {version}" for name, version in manifest.versions.items()],
        "Set id": [manifest.set_id],
    }
    return [(name, lines) for name, lines in facts.items() if lines]


def _values(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items()) or "on"
