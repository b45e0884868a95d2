"""Names and defaults of public arguments: what users leave out is part of the interface.

`DEFAULTS` is written by hand. A new argument with a default needs a line here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

from tests.documents import api_page
from tests.packages import is_installed

# Those of docs/api.md, without those whose classes are built from configs.
PACKAGES = [package for package in api_page() if package not in ("mmlab_ext", "d2_ext")]
IS_COMPLETE = all(map(is_installed, PACKAGES))

# Function or method: its arguments with defaults. Constructors go by the name of their class.
DEFAULTS: dict[str, str] = {
    "CheckpointLocation": (
        "source='auto', arch=None, averaged=None, stored_indices=False, new_keys=()"
    ),
    "Confusion.of": "counts=None",
    "Contract": "temperature=None, class_names=None, view_size=None",
    "Contract.check": "num_classes=None, temperature=None, class_names=None",
    "Contract.check_run": "error=DatasetMismatchError",
    "Contract.of_set": "class_names=None",
    "ConversionReport": (
        "model_kwargs=<factory>, weights='', num_classes=0, matched=<factory>, "
        "missing=<factory>, unexpected=<factory>, ignored=<factory>, dropped=<factory>, "
        "notes=<factory>, checked='', out=''"
    ),
    "ConversionReport.check_complete": "allow_partial=False",
    "DistillationLoss": "temperature=1.0, reduction='batchmean'",
    "Ensemble": "temperature=1.0, autocast=None, compiled=False, devices=()",
    "FeatureBackbone": (
        "out_indices=None, frozen_stages=-1, norm_eval=False, grad_checkpointing=False"
    ),
    "FeatureBackbone.train": "mode=True",
    "GenerationSettings": (
        "samples=400, topk=None, seed=0, probs_dtype='float16', batch_size=256, "
        "shard_images=1024, first_sample=0, answer=<factory>"
    ),
    "ImageOrder": "size=None",
    "ImageOrder.of_list": "root=None",
    "ImageScores.metrics": "bins=15",
    "ImageSet": "classes=None, whole=False, edit=None, edit_name='', expected=0",
    "ImageSource": "keys=None",
    "ImageSource.check": "full=False",
    "ImageSource.load_picture": "as_pixels=True",
    "ImageStatistics.summary": "pairs=10",
    "ImportSettings": (
        "num_classes=None, probs_dtype='float16', min_agreement=0.5, workers=0, progress=False"
    ),
    "InputConvention": (
        "mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), input_size=(224, 224), "
        "interpolation='bilinear', crop_pct=0.875"
    ),
    "KDLoss": "temperature=1.0, label_weight=0.0, reduction='batchmean'",
    "ModelUnderTest": "_last=None",
    "Policy": "mixings=(), backend='pil'",
    "Policy.apply": "partner=None",
    "Policy.load": "size=None, backend=None",
    "Policy.sample": "partners=()",
    "ReinforcedDataset": (
        "p=0.99, densify='smooth', seed=0, transform=None, size=None, postprocess=None, "
        "keys=None, skip=(), check='error', defer=False"
    ),
    "Replayer": "skip=()",
    "Replayer.load": "as_pixels=False",
    "ResumableLoader": "seed=0, rank=0, world_size=1",
    "ShardSet.check_in_place": "rows=None",
    "SparseTargets": "labels=None, num_classes=0, densify='smooth', temperature=None, extras=None",
    "SparseTargets.cuda": "device=None, non_blocking=False",
    "SparseTargets.dense": "method=None",
    "SparseTargets.normalized": "method=None, dtype=torch.float32",
    "SparseTargets.one_hot": "k=1, densify='smooth', temperature=None",
    "SparseTargets.size": "dim=None",
    "SparseTargets.unchecked": "densify='smooth', temperature=None, extras=None",
    "ViewGeometry.mask": "fill=0",
    "adaptive_calibration_error": "bins=15",
    "check_convention": "top=1.0, bgr=False, host='the host'",
    "choose_rows": "order='random', count=8, class_name=None, seed=0",
    "compare_teachers": (
        "fraction=1.0, samples=4, seed=0, device='cpu', batch_size=64, workers=0, progress=False"
    ),
    "compute_statistics": "workers=0, progress=False",
    "convert": (
        "out=None, to='timm', averaged=None, stock=False, stored_indices=False, "
        "allow_partial=False, mean=None, std=None"
    ),
    "convert_state_dict": "to='timm', stock=False, stored_indices=False, allow_partial=False",
    "create_loss": "dataset=None, plain=None",
    "draw_sheet": "views=6, topk=3",
    "evaluate": "device='cpu', batch_size=128, workers=0, bf16=False, progress=False",
    "expected_calibration_error": "bins=15",
    "export": "limit=None, workers=0, progress=True",
    "extend": (
        "samples=None, device='cpu', workers=0, views_on=None, check_images='quick', progress=False"
    ),
    "find_sets": "class_map=None",
    "find_suspects": "sort='margin', labels=None, workers=0, progress=False",
    "import_archives": "settings=None",
    "load_backbone": "arch=None, options=None, whole=False",
    "load_checkpoint": "averaged=None",
    "merge": "progress=False",
    "open_source": "class_map=None, train=True, keys=None",
    "open_statistics": "workers=0, progress=False",
    "pull": "progress=False",
    "push": "images=None, progress=False",
    "reinforce": (
        "teacher_specs=(), device='cpu', workers=0, views_on=None, min_agreement=None, "
        "left_out=(), check_images='quick', progress=False"
    ),
    "replay_normalized": "partner=None",
    "serve": "port=0, browser=True, announce=print",
    "show": "views=6",
    "split": "parts=None, keys=None, progress=False",
    "subset": "samples=None, topk=None, classes=None, keys=None, progress=False",
    "torchvision_model": "num_classes=1000",
    "verify": "source=None, replay=0, workers=0, records=False, resume=None, progress=False",
    "write_page": "pictures=(), advance=<lambda>",
}


def public() -> Iterator[tuple[str, Any]]:
    """Functions, constructors and methods that the documented packages export."""
    for package in filter(is_installed, PACKAGES):
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            yield from methods(name, value) if isinstance(value, type) else [(name, value)]


def methods(name: str, kind: type) -> Iterator[tuple[str, Any]]:
    for key in vars(kind):
        if key == "__init__":
            yield name, kind.__init__  # type: ignore[misc]
        elif not key.startswith("_"):
            yield f"{name}.{key}", getattr(kind, key)


def shown(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    return getattr(value, "__name__", None) or repr(value)


def defaults(function: Any) -> str:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # no function
        return ""
    given = [p for p in parameters if p.default is not p.empty]
    return ", ".join(f"{p.name}={shown(p.default)}" for p in given)


FOUND = {
    name: found
    for name, function in public()
    if callable(function) and (found := defaults(function))
}


@pytest.mark.skipif(not IS_COMPLETE, reason="a framework is not installed")
def test_every_default_is_in_the_table() -> None:
    assert sorted(FOUND) == sorted(DEFAULTS)


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_defaults(name: str) -> None:
    if name not in FOUND and not IS_COMPLETE:
        pytest.skip("a framework is not installed")
    assert FOUND[name] == DEFAULTS[name]
