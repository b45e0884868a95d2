"""What a config leaves out: the defaults that the documents promise."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import mmlab_ext

DEFAULTS: dict[str, dict[str, Any]] = {
    "CalibrationMetrics": {"bins": 15, "collect_device": "cpu", "prefix": None},
    "ExpectedCalibrationError": {"bins": 15, "collect_device": "cpu", "prefix": None},
    "ImageFolder": {
        "size": 224,
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "class_map": None,
    },
    "KDLoss": {
        "temperature": 1.0,
        "label_weight": 0.0,
        "reduction": "batchmean",
        "loss_weight": 1.0,
    },
    "Pretrained": {"prefix": None, "map_location": "cpu", "new_keys": ()},
    "ReinforcedBackboneHook": {
        "source": "auto",
        "arch": None,
        "check_inputs": True,
        "module": "backbone",
        "new_keys": (),
    },
    "ReinforcedDataset": {
        "p": 0.99,
        "densify": "smooth",
        "seed": 0,
        "check": "error",
        "size": None,
        "defer": False,
        "skip": "",
        "gt_score": False,
        "class_map": None,
        "pipeline": (),
    },
    "ReinforcementHook": {"replay": 16},
    "TimmClassifier": {
        "num_classes": 1000,
        "loss": None,
        "data_preprocessor": None,
        "grad_checkpointing": False,
        "sync_bn": False,
        "init_cfg": None,
    },
    "TimmDataPreprocessor": {"channels_last": False, "non_blocking": True},
    "TimmFeatures": {
        "out_indices": None,
        "frozen_stages": -1,
        "norm_eval": False,
        "with_cp": False,
        "sync_bn": False,
        "pretrained": None,
        "init_cfg": None,
    },
    "TopKAccuracy": {"topk": (1, 5), "collect_device": "cpu", "prefix": None},
    "load_into": {"head": False, "new_keys": ()},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name: str) -> None:
    parameters = inspect.signature(getattr(mmlab_ext, name)).parameters.values()
    found = {each.name: each.default for each in parameters if each.default is not each.empty}
    assert found == DEFAULTS[name]
