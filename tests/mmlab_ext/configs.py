"""Configs that tests share, with nothing from the network and for a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODEL = "test_resnet"
"""The smallest network of timm."""


def pretraining(images: Path, shards: Path, epochs: int = 2, **dataset: Any) -> dict[str, Any]:
    """Training a tiny classifier on reinforced data, validated on the same images."""
    return {
        "custom_imports": {"imports": ["mmlab_ext"]},
        "model": {"type": "TimmClassifier", "model": MODEL, "num_classes": 3},
        "train_dataloader": {
            "batch_size": 4,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "dataset": {
                "type": "ReinforcedDataset",
                "images": str(images),
                "shards": str(shards),
                "p": 0.8,
                **dataset,
            },
        },
        "val_dataloader": {
            "batch_size": 4,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": {"type": "ImageFolder", "root": str(images), "size": 24},
        },
        "val_evaluator": [
            {"type": "TopKAccuracy", "topk": (1, 2)},
            {"type": "ExpectedCalibrationError"},
        ],
        "train_cfg": {"by_epoch": True, "max_epochs": epochs, "val_interval": 1},
        "val_cfg": {},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}},
        "param_scheduler": {"type": "CosineAnnealingLR", "T_max": epochs, "by_epoch": True},
        "custom_hooks": [{"type": "ReinforcementHook"}],
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        "randomness": {"seed": 7},
        "default_scope": "mmengine",
        "log_level": "INFO",
    }


def unformatted(code: str, **_: Any) -> tuple[str, bool]:
    """Replaces yapf, which MMEngine calls four times a run, for seconds each."""
    return code, False
