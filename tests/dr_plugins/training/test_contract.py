from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset, ShardSet
from dr_plugins.errors import DatasetMismatchError, OutputError
from dr_plugins.training.contract import Contract
from dr_plugins.utils.advice import add_advice, advice
from tests.tiny import CLASSES


@pytest.fixture
def shards(shard_sets: Any) -> ShardSet:
    return ShardSet(shard_sets("rrc"))


def test_the_facts_of_a_set(shards: ShardSet) -> None:
    contract = Contract(shards)
    assert contract.class_names == list(CLASSES)
    assert (contract.num_classes, contract.temperature) == (len(CLASSES), 1.0)
    assert contract.view_size == (24, 24)
    contract.check_num_classes(3, "the model")
    contract.check_class_names(CLASSES, "the validation set")
    contract.check_class_names(None, "the validation set")
    contract.check_temperature(1.0, "the loss")


def test_what_differs_is_named(shards: ShardSet) -> None:
    contract = Contract(shards)
    with pytest.raises(DatasetMismatchError, match="the head has 1000 classes"):
        contract.check_num_classes(1000, "the head")
    with pytest.raises(DatasetMismatchError, match="n02"):
        contract.check_class_names(("n02", "n01", "n03"), "the validation set")
    with pytest.raises(DatasetMismatchError, match=r"is 2\.0.*1\.0"):
        contract.check_temperature(2.0, "the loss's temperature")
    assert "--mixup" in str(contract.refuse_second("--mixup", "mix"))


def test_an_adapter_has_its_own_errors_and_words(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dr_plugins.utils.advice._advice", {"num_classes": {}, "class_map": {}})
    assert advice("num_classes") == ""
    add_advice("Keras", num_classes="Dense(units=3)")
    with pytest.raises(OutputError, match=r"Keras: Dense\(units=3\)"):
        Contract(shards, error=OutputError).check_num_classes(4, "the model")
    with pytest.raises(KeyError):
        add_advice("Keras", colour="red")


def test_views_are_resized_for_the_student(shard_sets: Any, photographs: Path) -> None:
    images, shards = ImageFolder(photographs), shard_sets("rrc")
    stored = ReinforcedDataset(images, shards, p=1)[0][0]
    for size, shape in ((16, (3, 16, 16)), ((10, 30), (3, 10, 30)), (24, (3, 24, 24))):
        for p in (0.0, 1.0):
            view = ReinforcedDataset(images, shards, p=p, size=size)[0][0]
            assert (view.shape, view.dtype) == (shape, torch.uint8)
    assert torch.equal(ReinforcedDataset(images, shards, p=1, size=24)[0][0], stored)
    assert ReinforcedDataset(images, shards, size=24, defer=True).defer
    for wrong in ({"size": 0}, {"size": 16, "defer": True}):
        with pytest.raises(ValueError, match="size"):
            ReinforcedDataset(images, shards, **wrong)
