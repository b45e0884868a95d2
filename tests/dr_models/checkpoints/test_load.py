"""Reading checkpoints: what is accepted, what is refused, and that nothing runs."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import serialization

from dr_models.checkpoints import load_checkpoint
from dr_models.checkpoints.load import strip_prefixes
from dr_plugins.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.num": torch.tensor(3)}
OTHER = {"a.weight": torch.ones(2, 3), "a.num": torch.tensor(4)}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path / "best.pt", **options)
    return path / "best.pt"


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bare_state_dict(tmp_path: Path, legacy: bool) -> None:
    path = saved(tmp_path, OrderedDict(STATE), _use_new_zipfile_serialization=not legacy)
    found = load_checkpoint(path)
    assert_same(found.state, STATE)
    assert found.weights == ""


def test_safetensors_are_told_by_content_not_by_name(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "best.pt")
    assert_same(load_checkpoint(tmp_path / "best.pt").state, STATE)


@pytest.mark.parametrize(
    ("plain", "averaged"),
    [
        ("state_dict", "state_dict_ema"),
        ("model_state_dict", "ema_state_dict"),
        ("model", "model_ema"),
        ("module", "ema"),
    ],
)
def test_training_checkpoints(tmp_path: Path, plain: str, averaged: str) -> None:
    path = saved(tmp_path, {"epoch": 3, plain: STATE, averaged: OTHER, "optimizer": {"lr": 0.1}})
    assert load_checkpoint(path).weights == averaged
    assert_same(load_checkpoint(path, averaged=True).state, OTHER)
    assert_same(load_checkpoint(path, averaged=False).state, STATE)


def test_averaged_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="state_dict_ema"):
        load_checkpoint(saved(tmp_path, {"state_dict": STATE, "epoch": 1}), averaged=True)
    with pytest.raises(CheckpointError, match="state_dict_ema"):
        load_checkpoint(saved(tmp_path, STATE), averaged=True)


def test_what_training_scripts_store_besides(tmp_path: Path) -> None:
    content = {
        "state_dict": STATE,
        "args": argparse.Namespace(model="resnet50d", lr=0.1, out=Path("runs")),
        "metric": np.float64(78.9),
        "history": np.arange(3),
        "arch": "resnet50d",
    }
    before = set(serialization.get_safe_globals())
    assert_same(load_checkpoint(saved(tmp_path, content)).state, STATE)
    assert set(serialization.get_safe_globals()) == before


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


class Own:
    pass


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_is_executed(tmp_path: Path, legacy: bool) -> None:
    content = {"state_dict": STATE, "extra": Bomb(tmp_path / "ran")}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="could execute code"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_class_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Own"):
        load_checkpoint(saved(tmp_path, {"state_dict": STATE, "extra": Own()}))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(tmp_path / "missing.pt")
    contents = (b"", b"<html>404</html>", b"PK\x03\x04", b"\x80\x02.", pickle.dumps([1], 2))
    for content in contents:
        (tmp_path / "best.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"best\.pt"):
            load_checkpoint(tmp_path / "best.pt")
    for other in ([1, 2], {"epoch": 3}, {}, {"state_dict": {"a": 1}}, {"model": {"b": STATE}}):
        with pytest.raises(CheckpointError, match="expected a state dict"):
            load_checkpoint(saved(tmp_path, other))


@given(data=st.data())
def test_a_truncated_file_is_an_error_of_ours(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    safetensor = data.draw(st.booleans())
    path = folder / "whole"
    if safetensor:
        safetensors.torch.save_file(STATE, path)
    else:
        torch.save(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a is a sparse"):
        load_checkpoint(saved(tmp_path, {"a": torch.eye(2).to_sparse()}))


@given(st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=4), st.text("ab.", min_size=1))
def test_prefixes_of_wrappers_go(prefixes: list[str], name: str) -> None:
    value = torch.tensor(1)
    assert strip_prefixes({"".join(prefixes) + name: value}) == {name: value}


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"a twice, the second time as module\.a"):
        strip_prefixes({"a": torch.zeros(1), "module.a": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "average"),
    [
        ("ema_model", OTHER),
        ("ema", {"module": OTHER, "updates": 3}),
        ("emaModel", OTHER),
        ("net_EMA", {"decay": 0.9, "shadow_params": list(OTHER.values())}),
    ],
)
def test_averages_in_another_layout(tmp_path: Path, name: str, average: object) -> None:
    path = saved(tmp_path, {"state_dict": STATE, name: average})
    with pytest.raises(CheckpointError, match=rf"averaged ones under {name}\b"):
        load_checkpoint(path)
    assert_same(load_checkpoint(path, averaged=False).state, STATE)


def test_numbers_that_are_no_averaged_weights(tmp_path: Path) -> None:
    content = {"state_dict": STATE, "ema_decay": 0.9, "avg_loss": torch.tensor(0.5), "ema": {}}
    content |= {"avg_class_accuracy": torch.rand(1000), "ema_of_norms": {"a": torch.rand(9)}}
    assert_same(load_checkpoint(saved(tmp_path, content)).state, STATE)


def test_averages_of_mmengines_runner(tmp_path: Path) -> None:
    """Its EMAHook exchanges the two when it saves: the average is what it tests with."""
    content = {
        "state_dict": {"model.a": torch.ones(2)},
        "ema_state_dict": {"steps": torch.tensor(3), "module.model.a": torch.full((2,), 0.5)},
        "message_hub": {},
        "meta": {"epoch": 3},
    }
    torch.save(content, tmp_path / "epoch_3.pth")
    for averaged, value in ((None, 1.0), (True, 1.0), (False, 0.5)):
        state = load_checkpoint(tmp_path / "epoch_3.pth", averaged).state
        assert {key: tensor.tolist() for key, tensor in state.items()} == {"a": [value, value]}


def test_checkpoints_of_mmengines_runner(tmp_path: Path) -> None:
    logging = pytest.importorskip("mmengine.logging")
    hub = logging.MessageHub.get_instance("test_checkpoints_of_mmengines_runner")
    hub.update_scalar("train/loss", np.float32(0.5))
    hub.update_scalar("train/loss", torch.tensor(0.25))
    content = {
        "state_dict": {"model.a": torch.ones(2)},
        "message_hub": hub.state_dict(),
        "meta": {"epoch": 3, "cfg": "..."},
        "optimizer": {"state": {}, "param_groups": []},
    }
    torch.save(content, tmp_path / "epoch_3.pth")
    checkpoint = load_checkpoint(tmp_path / "epoch_3.pth")
    assert checkpoint.weights == "state_dict"
    assert checkpoint.state["a"].tolist() == [1.0, 1.0]


def test_averages_of_pytorch(tmp_path: Path) -> None:
    """`AveragedModel` puts a prefix before names, and a counter beside them."""
    network = torch.nn.BatchNorm2d(3)
    averaged = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    averaged.update_parameters(network)
    found = load_checkpoint(saved(tmp_path, {"model_ema": averaged.state_dict()}))
    assert_same(found.state, network.state_dict())
    bare = load_checkpoint(saved(tmp_path, averaged.state_dict()))
    assert_same(bare.state, network.state_dict())


@pytest.mark.parametrize(
    "name",
    [
        "module.layer1.0.weight",
        "_orig_mod.module.model.layer1.0.weight",
        "layer1._orig_mod.0.weight",
        "_fsdp_wrapped_module.layer1.0._checkpoint_wrapped_module.weight",
        "module._fsdp_wrapped_module.layer1._orig_mod.0.weight",
    ],
)
def test_names_inside_of_wrappers(name: str) -> None:
    assert list(strip_prefixes({name: torch.ones(1)})) == ["layer1.0.weight"]


def test_counters_are_told_from_layers_of_their_name() -> None:
    state = {"steps": torch.ones(3, 3), "n_averaged.weight": torch.ones(1)}
    assert strip_prefixes({**state, "n_averaged": torch.tensor(7)}).keys() == state.keys()


def test_names_that_are_no_strings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.pt.* int"):
        load_checkpoint(saved(tmp_path, {1: torch.ones(2), "a": torch.ones(2)}))
