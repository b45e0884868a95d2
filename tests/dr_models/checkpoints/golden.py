"""The reference numbers of CVNets' own code, from `shared/cvnets` beside the repository."""

from __future__ import annotations

import importlib.util
import json
import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dr_models.checkpoints import CVNETS_MODELS

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(os.environ.get("DR_PLUGINS_CVNETS_GOLDEN", ROOT.parent / "shared" / "cvnets"))

needs_golden = pytest.mark.skipif(
    not (FOLDER / "golden_weights.py").is_file(),
    reason=f"the reference numbers of CVNets are not in {FOLDER}",
)

NAMES = sorted(CVNETS_MODELS)
WITH_LOGITS = [name for name in NAMES if (FOLDER / f"{name}.npz").is_file()]
# These take seconds each, mostly to draw their weights.
LARGE = {"resnet_152", "vit_base", "vit_base_384", "swin_base", "swin_base_384"}


class Reference(NamedTuple):
    logits: np.ndarray
    image: torch.Tensor


def slow_if_large(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in names]


@cache
def rule() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_weights", FOLDER / "golden_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def specification(name: str) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return described


def state_dict(name: str) -> dict[str, torch.Tensor]:
    shapes = specification(name)["state_dict"]
    return {
        key: torch.from_numpy(np.asarray(rule().golden_weight(key, shape)))
        for key, shape in shapes.items()
    }


def reference(name: str) -> Reference:
    stored = np.load(FOLDER / f"{name}.npz")
    size = int(stored["input_size"])
    image = rule().golden_input(size, size, int(stored["input_seed"]))
    return Reference(stored["logits"], torch.from_numpy(image))


def assert_reproduces(model: torch.nn.Module, name: str) -> None:
    """In float64, where rounding hides nothing: 2e-6 of the largest logit."""
    expected, image = reference(name)
    with torch.inference_mode():
        logits = model.double().eval()(image.double())[0].numpy()
    assert np.abs(logits - expected).max() <= 2e-6 * np.abs(expected).max()
