from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import ImageFolder

from dr_plugins import ReinforcedDataset, ShardSet, SparseTargets
from dr_plugins.errors import DatasetMismatchError, OutputError
from dr_plugins.training.contract import Contract, Effect, RunFacts, Setting
from dr_plugins.utils.advice import add_advice, advice
from tests.tiny import CLASSES


@pytest.fixture
def shards(shard_sets: Any) -> ShardSet:
    return ShardSet(shard_sets("rrc"))


def test_the_facts_of_a_set(shards: ShardSet) -> None:
    contract = Contract.of_set(shards)
    assert contract.class_names == list(CLASSES)
    assert (contract.num_classes, contract.temperature) == (len(CLASSES), 1.0)
    assert contract.view_size == (24, 24)
    contract.check_run(RunFacts())
    contract.check()
    contract.check(num_classes=3, temperature=contract.temperature, class_names=CLASSES)
    for wrong in ({"num_classes": 4}, {"temperature": 7.5}, {"class_names": CLASSES[::-1]}):
        with pytest.raises(DatasetMismatchError):
            contract.check(**wrong)
    contract.check_run(
        RunFacts(
            num_classes=[Setting("the model", 3)],
            temperatures=[Setting("the loss", 1.0)],
            class_names=[Setting("validation", CLASSES), Setting("test", None)],
            channels=[Setting("validation", "RGB")],
            deferred_sizes=[Setting("size", (24, 24))],
        )
    )


def test_targets_carry_their_part_of_the_contract() -> None:
    targets = SparseTargets([[0]], [[1.0]], num_classes=5, temperature=2.0)
    contract = Contract.of_targets(targets)
    assert (contract.num_classes, contract.temperature) == (5, 2.0)
    unknown = Contract.of_targets(SparseTargets([[0]], [[1.0]], num_classes=5))
    unknown.check_run(RunFacts(temperatures=[Setting("the loss", 7.0)]))


FAULTS = {
    "num_classes": (1000, "1000.*3"),
    "temperatures": (2.0, r"1\.0.*2\.0"),
    "class_names": (("n02", "n01", "n03"), "'n02', 'n01'"),
    "channels": ("BGR", "BGR.*RGB"),
    "deferred_sizes": ((32, 32), r"\(24, 24\)"),
}


@pytest.mark.parametrize("fact", RunFacts._fields)
def test_a_fault_names_the_setting_the_values_and_the_remedy(shards: ShardSet, fact: str) -> None:
    contract = Contract.of_set(shards)
    faults = [FAULTS[fact]] if fact in FAULTS else [(effect, effect.value) for effect in Effect]
    for value, text in faults:
        run = RunFacts(**{fact: [Setting("model.head", value, "Do as we do")]})
        with pytest.raises(DatasetMismatchError, match=text) as error:
            contract.check_run(run)
        assert "model.head" in str(error.value)
        assert "Do as we do" in str(error.value) or fact == "class_names"
        with pytest.raises(OutputError):
            contract.check_run(run, OutputError)


def test_an_adapter_has_its_own_words(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dr_plugins.utils.advice._advice", {"num_classes": {}, "class_map": {}})
    assert advice("num_classes") == ""
    add_advice("Keras", num_classes="Dense(units=3)")
    with pytest.raises(DatasetMismatchError, match=r"Keras: Dense\(units=3\)"):
        Contract.of_set(shards).check_run(RunFacts(num_classes=[Setting("the model", 4)]))
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
