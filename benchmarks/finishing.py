"""Finishing views on a GPU, as a prefetcher does it, against finishing them in a worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.report import Row, compare, report
from dr_plugins.policies.policy import Policy
from dr_plugins.replay.deferred import DeferredViews

BATCH, BATCHES = 256, 20


def main(out: Path) -> None:
    """Measure and report."""
    if not torch.cuda.is_available():
        print("\nFinishing on a GPU: skipped, this machine has none")
        return
    torch.set_num_threads(1)  # as a worker has
    rows = []
    for name in ("rrc", "randaug", "randaug_mixing"):
        views = _views(Policy.load(name, backend="tensor"))
        ours, theirs, ratio = compare(
            lambda views=views: _on_gpu(views), lambda views=views: len(views.to("cpu"))
        )
        what = f"finish {name} in batches of {BATCH}"
        rows.append(Row(what, "one CPU thread", "img/s", 1 / ours, 1 / theirs, ratio, 0.0))
    title = f"Finishing views of 224x224 on {torch.cuda.get_device_name()}, with the copy to it"
    report(title, rows, out / "finishing.json")


def _views(policy: Policy) -> DeferredViews:
    rng = np.random.default_rng(0)
    params = [policy.sample(rng, (375, 500), [(0, (375, 500))]) for _ in range(BATCH)]
    count = BATCH + sum(p.partner is not None for p in params)
    noise = torch.from_numpy(rng.integers(0, 256, (count, 224, 224, 3), np.uint8))
    return DeferredViews(policy, noise.permute(0, 3, 1, 2), params)


def _on_gpu(views: DeferredViews) -> int:
    pinned = views.pin_memory()
    for _ in range(BATCHES):
        pinned.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    return BATCHES * len(views)
