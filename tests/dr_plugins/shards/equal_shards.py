"""A set whose shards hold one image each."""

from __future__ import annotations

from pathlib import Path

from dr_plugins.policies.policy import Policy
from tests.data.make_golden import SETS, answer_all, params_all, write_set


def equal_shards(out: Path) -> Path:
    """Write it, of the content of a golden set."""
    policy = Policy.load("randaug_mixing", size=24)
    return write_set(
        out,
        policy,
        params_all,
        answer_all,
        samples=SETS["golden-all"],
        num_classes=1000,
        shard_images=1,
    )
