"""Noticing that a network was loaded, in whatever way."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from dr_models.checkpoints import LoadRecord, mark_loaded
from dr_plugins.errors import BackboneError


class Network(nn.Module):
    """With a record, as backbones have it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.load_record = LoadRecord(self.body)


def by_the_model(network: Network) -> None:
    nn.ModuleDict({"backbone": network}).load_state_dict(
        {f"backbone.{key}": value for key, value in Network().state_dict().items()}
    )


def by_parts(network: Network) -> None:
    for part in network.body:
        part.load_state_dict(type(part)(*part_arguments(part)).state_dict())


def part_arguments(part: nn.Module) -> tuple[int, ...]:
    return (3, 4, 1) if isinstance(part, nn.Conv2d) else (4,)


def in_two_calls(network: Network) -> None:
    state = list(Network().state_dict().items())
    for half in (state[:3], state[3:]):
        network.load_state_dict(dict(half), strict=False)


def after_a_conversion(network: Network) -> None:
    nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.load_state_dict(Network().state_dict())


def without_counters(network: Network) -> None:
    state = Network().state_dict()
    del state["body.1.num_batches_tracked"]
    network.load_state_dict(state, strict=False)


def by_assignment(network: Network) -> None:
    network.load_state_dict(Network().state_dict(), assign=True)


@pytest.mark.parametrize(
    "load",
    [by_the_model, by_parts, in_two_calls, after_a_conversion, without_counters, by_assignment],
)
def test_loading_is_noticed(load: Callable[[Network], None]) -> None:
    network = Network()
    assert not network.load_record.is_complete
    load(network)
    assert network.load_record.is_complete


def test_tensors_of_another_shape_are_not_loaded() -> None:
    network = Network()
    state = {**Network().state_dict(), "body.0.weight": torch.zeros(4, 9, 1, 1)}
    # As MMEngine loads, which only warns.
    network.body._load_from_state_dict(state, "body.", {}, True, [], [], [])
    assert network.load_record.missing == {"0.weight"}


def test_what_is_not_all_is_not_loaded() -> None:
    network = Network()
    state = Network().state_dict()
    del state["body.1.running_var"]
    network.load_state_dict(state, strict=False)
    assert not network.load_record.is_complete
    network.load_state_dict(Network().state_dict())
    network.load_state_dict({"head.weight": torch.zeros(1)}, strict=False)
    assert network.load_record.is_complete
    network.load_state_dict(state, strict=False)  # another checkpoint, and only in part
    assert not network.load_record.is_complete


def test_a_copy_has_a_record_of_its_own() -> None:
    network = Network()
    other = copy.deepcopy(network)
    other.load_state_dict(Network().state_dict())
    assert other.load_record.is_complete
    assert not network.load_record.is_complete


def test_marking() -> None:
    pair = nn.ModuleDict({"student": Network(), "teacher": Network()})
    mark_loaded(pair["teacher"])
    assert [network.load_record.is_complete for network in pair.values()] == [False, True]
    mark_loaded(pair)
    assert pair["student"].load_record.is_complete
    with pytest.raises(BackboneError, match="Linear holds no backbone"):
        mark_loaded(nn.Linear(1, 1))
