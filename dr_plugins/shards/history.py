"""The history of a shard set that was made from other sets; see ``FORMAT.md``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dr_plugins.shards.manifest import Manifest

_FACTS = ("samples", "topk", "seed")


def history_of(operation: str, sets: Sequence[Manifest], **details: Any) -> dict[str, Any]:
    """Return the ``history`` of a set.

    Args:
        operation: What made the set, such as ``"subset"``.
        sets: The sets that it was made from.
        **details: What else defined the operation, as plain data.
    """
    return {"operation": operation, **details, "sets": [_entry(one) for one in sets]}


def _entry(manifest: Manifest) -> dict[str, Any]:
    settings = manifest.settings
    facts = {name: settings.get(name) for name in _FACTS}
    if "first_sample" in settings:
        facts["first_sample"] = settings["first_sample"]
    past = {"history": settings["history"]} if "history" in settings else {}
    return {"set_id": manifest.set_id, "images": manifest.index.images, **facts, **past}


def described(history: dict[str, Any]) -> list[str]:
    """Return lines that describe a history, the latest operation first."""
    details = [f"{k} {v}" for k, v in history.items() if k not in ("operation", "sets")]
    lines = [f"{', '.join([history['operation'], *details])} of"]
    for one in history["sets"]:
        facts = f"{one['images']:,} images x {one['samples']}, top-{one['topk']}"
        lines.append(f"  {one['set_id']}: {facts}, seed {one['seed']}")
        if "history" in one:
            lines += [f"    {line}" for line in described(one["history"])]
    return lines
