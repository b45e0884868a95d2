from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
import timm.data
import timm.data.dataset
import timm.data.dataset_factory
import timm.data.loader
import timm.data.mixup
import timm.loss
import timm.loss.cross_entropy

import timm_ext
from timm_ext import datasets, loader, loss, refusals


def test_timms_public_names_are_ours() -> None:
    assert timm.data.create_dataset is datasets.create_dataset
    assert timm.data.create_loader is loader.create_loader
    assert timm.data.create_naflex_loader is refusals.create_naflex_loader
    assert timm.data.AugMixDataset is refusals.AugMixDataset
    assert timm.data.Mixup is refusals.Mixup
    assert timm.data.FastCollateMixup is refusals.FastCollateMixup
    assert timm.loss.LabelSmoothingCrossEntropy is loss.LabelSmoothingCrossEntropy
    assert timm.loss.BinaryCrossEntropy is refusals.BinaryCrossEntropy


def test_timms_own_modules_keep_theirs() -> None:
    assert timm.data.dataset_factory.create_dataset is datasets.timm_create_dataset
    assert timm.data.loader.create_loader is loader.timm_create_loader
    assert timm.data.loader.FastCollateMixup is refusals.FastCollateMixup.__base__
    assert timm.loss.cross_entropy.LabelSmoothingCrossEntropy.__module__.startswith("timm.loss")


def test_only_timms_objects_are_bound_anew_under_whatever_name() -> None:
    script = types.ModuleType("script")
    script.create_dataset = datasets.timm_create_dataset
    script.make_loader = loader.timm_create_loader
    script.create_loader = own = lambda: None
    script.Mixup = timm.data.mixup.Mixup
    timm_ext.register(script)
    assert script.create_dataset is datasets.create_dataset
    assert script.make_loader is loader.create_loader
    assert script.create_loader is own
    assert script.Mixup is refusals.Mixup


@pytest.mark.parametrize("version", ["0.9.12", "1.0.15.dev0"])
def test_old_versions_of_timm_are_told(version: str) -> None:
    script = "import sys, types; timm = sys.modules['timm'] = types.ModuleType('timm');"
    script += f"timm.__version__ = {version!r}; import timm_ext"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert f"needs timm 1.0.16 or newer, but {version} is installed" in result.stderr


def test_registering_again_changes_nothing() -> None:
    before = dict(vars(timm.data)), dict(vars(timm.loss))
    timm_ext.register()
    timm_ext.register(timm.data)
    assert (dict(vars(timm.data)), dict(vars(timm.loss))) == before
