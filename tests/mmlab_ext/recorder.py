"""A hook for runs in other processes: what each rank was given, as JSON lines in the work folder.

custom_imports = dict(imports=["mmlab_ext", "tests.mmlab_ext.recorder"])
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from dr_plugins.replay.replayer import fingerprint


@HOOKS.register_module(force=True)
class RecordImages(Hook):
    """Epoch, keys, digests of the views and loss of each batch."""

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        line = {
            "epoch": runner.epoch,
            "keys": [sample.image_key for sample in data_batch["data_samples"]],
            "views": [fingerprint(view).hex() for view in data_batch["inputs"]],
            "loss": outputs["loss"].item(),
            "wrapped": type(runner.model).__name__,
        }
        path = Path(runner.work_dir) / f"rank{dist.get_rank()}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
