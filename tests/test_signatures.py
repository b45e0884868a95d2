"""Names and defaults of public arguments: what users leave out is part of the interface.

`DEFAULTS` is written by hand. A new argument with a default needs a line here.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

PACKAGES = ["dr_plugins", *(["dr_models", "timm_ext"] if importlib.util.find_spec("timm") else [])]

# Function or method: its arguments with defaults. Constructors go by the name of their class.
DEFAULTS: dict[str, str] = {
    "Alignment": "class_names=None",
    "CVNetsModel": "size=224, resize=256, stock=None, stock_entries=None",
    "CheckpointLocation": (
        "source='auto', arch=None, averaged=None, stored_indices=False, new_keys=()"
    ),
    "ClassFolders": "class_names=None",
    "ConvStemEmbed": "in_chans=3, embed_dim=768, patch_size=16, bias=True",
    "ConversionReport": (
        "model_kwargs=<factory>, weights='', num_classes=0, matched=<factory>, "
        "missing=<factory>, unexpected=<factory>, ignored=<factory>, dropped=<factory>, "
        "notes=<factory>, checked='', out=''"
    ),
    "CutMix": "alpha=1.0, p=1.0",
    "DatasetName": "shards=None, base='', p=0.99, densify='smooth', check='error', seed=None",
    "DeferredViews.cuda": "device=None, non_blocking=False",
    "DeferredViews.size": "dim=None",
    "DeferredViews.to": "non_blocking=False",
    "Ensemble": "temperature=1.0, autocast=None, compiled=False",
    "Expected": "start=b'', least=0, most=9223372036854775808",
    "FeatureBackbone": (
        "out_indices=None, frozen_stages=-1, norm_eval=False, grad_checkpointing=False"
    ),
    "FeatureBackbone.train": "mode=True",
    "Field": "shape=()",
    "GenerationSettings": (
        "samples=400, topk=10, seed=0, probs_dtype='float16', batch_size=256, shard_images=1024, "
        "first_sample=0"
    ),
    "ImageOrder": "size=None",
    "ImageOrder.of_list": "root=None",
    "ImageScores.metrics": "bins=15",
    "ImageSource": "keys=None",
    "ImageSource.check": "full=False",
    "ImageSource.load_picture": "as_pixels=True",
    "ImportSettings": (
        "num_classes=None, probs_dtype='float16', min_agreement=0.5, workers=0, progress=False"
    ),
    "InputConvention": (
        "mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), input_size=(224, 224), "
        "interpolation='bilinear', crop_pct=0.875"
    ),
    "KDLoss": "temperature=1.0, label_weight=0.0, reduction='batchmean'",
    "Mixup": "alpha=1.0, div_by=1.0, p=1.0",
    "OutputDirectory": "versions=None",
    "Policy": "mixings=(), backend='pil'",
    "Policy.apply": "partner=None",
    "Policy.load": "size=None, backend=None",
    "Policy.sample": "partners=()",
    "Published": "dataset='imagenet', note=''",
    "RandAugment": (
        "num_ops=2, magnitude=9, num_magnitude_bins=31, p=1.0, operations=('Identity', 'ShearX', "
        "'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Brightness', 'Color', 'Contrast', "
        "'Sharpness', 'Posterize', 'Solarize', 'AutoContrast', 'Equalize')"
    ),
    "RandomCrop": "padding=0",
    "RandomErasing": "p=0.25, scale=(0.02, 0.33), ratio=(0.3, 3.3)",
    "RandomHorizontalFlip": "p=0.5",
    "RandomResizedCrop": (
        "scale=(0.08, 1.0), ratio=(0.75, 1.3333333333333333), interpolation='bilinear'"
    ),
    "ReinforcedDataset": (
        "p=0.99, densify='smooth', seed=0, transform=None, size=None, postprocess=None, "
        "keys=None, check='error', defer=False"
    ),
    "ReinforcedLoss": "plain=None, temperature=None",
    "Replayer.load": "as_pixels=False",
    "Resize": "interpolation='bilinear'",
    "SparseTargets": "labels=None, num_classes=0, densify='smooth', temperature=None",
    "SparseTargets.cuda": "device=None, non_blocking=False",
    "SparseTargets.dense": "method=None",
    "SparseTargets.normalized": "method=None, dtype=torch.float32",
    "SparseTargets.one_hot": "k=1, densify='smooth', temperature=None",
    "SparseTargets.size": "dim=None",
    "SparseTargets.unchecked": "densify='smooth', temperature=None",
    "TimmFinder.find_spec": "path=None, target=None",
    "TimmTeacher": "channels_last=True",
    "VerifyReport": "files=0, replayed=0, problems=<factory>",
    "ViewBatches": "whole=True",
    "adaptive_calibration_error": "bins=15",
    "check_agreement": "minimum=None",
    "check_convention": "top=1.0, bgr=False, host='the host'",
    "check_count": "least=1",
    "check_fit": "prefix=''",
    "check_readable": "check='quick', workers=0, progress=False",
    "convert": (
        "out=None, to='timm', averaged=None, stock=False, stored_indices=False, "
        "allow_partial=False, mean=None, std=None"
    ),
    "convert_state_dict": "to='timm', stock=False, stored_indices=False, allow_partial=False",
    "create_loss": "dataset=None, plain=None",
    "crop_resize": "backend='tensor'",
    "cross_entropy": (
        "weight=None, size_average=None, ignore_index=-100, reduce=None, reduction='mean', "
        "label_smoothing=0.0"
    ),
    "download": "expected=None, attempts=8, progress=False, sleep=sleep",
    "expected_calibration_error": "bins=15",
    "find_unreadable": "positions=None, check='quick', workers=0, progress=False",
    "fused_loss": "temperature=1.0, label_weight=0.0, with_entropy=True",
    "image_generator": "stream=0",
    "import_archives": "settings=None",
    "inspect": "progress=False",
    "join": "stack=stack",
    "load_backbone": "arch=None, options=None",
    "load_checkpoint": "averaged=None",
    "log_on_primary": "level=20",
    "module": "change=None",
    "open_picture": "as_pixels=True",
    "open_source": "class_map=None, train=True",
    "reinforce": (
        "teacher_specs=(), device='cpu', workers=0, views_on=None, min_agreement=None, "
        "left_out=(), check_images='quick', progress=False"
    ),
    "replay_normalized": "partner=None",
    "resampling_taps": "backend='tensor'",
    "resnet": "stock_stem=False",
    "skip_list": "check='quick', workers=0, progress=False",
    "target_fields": "probs_dtype='float16'",
    "tensor": "change=None",
    "torchvision_model": "num_classes=1000",
    "verify": "source=None, replay=0, progress=False",
    "walk": "progress=None",
    "window_index": "window=7",
    "check_class_names": "error=DatasetMismatchError",
    "log_softmax": "temperature=1.0",
    "plain_rows": "temperature=1.0, label_weight=0.0",
    "Shard": "fingerprinted=None",
    "finished_set": "versions=None",
    "ViewPlan": "first_sample=0",
    "extend": (
        "samples=None, device='cpu', workers=0, views_on=None, check_images='quick', progress=False"
    ),
    "merge": "progress=False",
    "split": "parts=None, keys=None, progress=False",
    "pull": "progress=False",
    "push": "progress=False",
    "subset": "samples=None, topk=None, classes=None, keys=None, progress=False",
    "ShardMaker": "workers=0, views_on=None",
    "Contract": "class_names=None, error=DatasetMismatchError",
    "Contract.refuse_second": "what='augment'",
    "ReinforcedDataset.contract": "error=DatasetMismatchError",
    "Operation": "signed=False, matrix=None",
    "ConversionReport.check_complete": "allow_partial=False",
}


def public() -> Iterator[tuple[str, Any]]:
    """Functions, constructors and methods that a module of the packages exports."""
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        for found in pkgutil.walk_packages(path, f"{package}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            for name in getattr(module, "__all__", ()):
                value = getattr(module, name)
                if getattr(value, "__module__", None) == module.__name__:
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


# Models of timm have one signature, which timm asks for; errors that of Exception.
FOUND = {
    name: found
    for name, function in public()
    if callable(function) and not name.startswith("cvnets_") and (found := defaults(function))
}


@pytest.mark.skipif(len(PACKAGES) == 1, reason="timm is not installed")
def test_every_default_is_in_the_table() -> None:
    assert sorted(FOUND) == sorted(DEFAULTS)


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_defaults(name: str) -> None:
    if name not in FOUND and len(PACKAGES) == 1:
        pytest.skip("timm is not installed")
    assert FOUND[name] == DEFAULTS[name]
