"""Seconds per step of the methods, by turns in one process: all see the same load."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

from examples.evidence.methods import METHODS, Task
from examples.evidence.models import BATCH
from examples.evidence.training import Stepper

_ROUNDS = 9
_COMPARED = ("plain", "reinforced", "online")


def measure_cost(task: Task) -> dict[str, Any]:
    """Time one epoch of each method per round; the processor's time, not the wall clock's.

    Returns:
        Median milliseconds per step, and the median over rounds of the ratio to plain.
    """
    run = replace(task.run, epochs=_ROUNDS + 1)
    students = {name: Stepper(run.model, run.images, run.epochs, run.seed) for name in _COMPARED}
    epochs = {name: METHODS[name](replace(task, run=run)) for name in _COMPARED}
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(_ROUNDS + 1):
        for name in _COMPARED:
            start = time.process_time()
            students[name].learn(*next(epochs[name]))
            seconds[name].append(time.process_time() - start)
    # The first round warms up.
    per_step = 1000 * BATCH / run.images
    timed = {name: values[1:] for name, values in seconds.items()}
    return {
        "ms_per_step": {n: round(per_step * statistics.median(v), 3) for n, v in timed.items()},
        "ratio_to_plain": {n: round(_ratio(v, timed["plain"]), 4) for n, v in timed.items()},
    }


def _ratio(values: list[float], base: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(values, base, strict=True))
