"""Names and options of networks beside their weights."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from dr_models.checkpoints import convert, load_backbone, load_checkpoint
from dr_models.checkpoints.network_record import (
    RECORD_KEY,
    NetworkRecord,
    check_options,
    decode_record,
    encode_record,
)
from dr_plugins.errors import CheckpointError


def test_records_are_json_of_one_length() -> None:
    short, long = encode_record("resnet18", {}), encode_record("resnet50", {"aa_layer": "avg"})
    assert short.dtype == torch.uint8
    assert short.shape == long.shape == (1024,)
    assert json.loads(bytes(long.tolist())) == {
        "format": "dr_plugins.network",
        "arch": "resnet50",
        "options": {"aa_layer": "avg"},
    }
    many = encode_record("resnet50", {"layers": list(range(999))})
    assert many.shape == (5120,)
    assert decode_record(many).options["layers"][-1] == 998


@pytest.mark.parametrize("to", ["timm", "detectron2", "mmengine"])
def test_options_that_train_py_built_the_network_with(tmp_path: Path, to: str) -> None:
    """``--model-kwargs act_layer=gelu`` changes no tensor."""
    network = timm.create_model("resnet18", act_layer="gelu")
    saved = {"model": "resnet18", "gp": None, "model_kwargs": {"act_layer": "gelu"}}
    content = {"state_dict": network.state_dict(), "args": argparse.Namespace(**saved)}
    torch.save(content, tmp_path / "last.pth.tar")
    with pytest.raises(CheckpointError, match="resnet18 trained with act_layer='gelu'"):
        load_backbone(str(tmp_path / "last.pth.tar"), to=to, options={})
    if to == "timm":
        load_backbone(str(tmp_path / "last.pth.tar"), to=to, options={"act_layer": "gelu"})


def test_options_of_any_kind_are_compared_as_json_has_them() -> None:
    options = {"block_args": {"sizes": (1, 2)}, "act_layer": nn.GELU}
    record = decode_record(encode_record("resnet18", options))
    assert record == NetworkRecord(
        "resnet18", {"block_args": {"sizes": [1, 2]}, "act_layer": "GELU"}
    )
    check_options(record, options, "x")
    check_options(record, {**options, "drop_path_rate": 0.5, "output_stride": 8}, "x")
    with pytest.raises(CheckpointError, match=r"act_layer='GELU'.*act_layer='ReLU'"):
        check_options(record, {**options, "act_layer": nn.ReLU}, "x")
    layer = functools.partial(nn.functional.gelu, approximate="tanh")
    found = decode_record(encode_record("resnet18", {"act_layer": layer}))
    assert found.options == {"act_layer": ["gelu", [], {"approximate": "tanh"}]}


@pytest.mark.parametrize("options", [{"global_pool": "max"}, {"output_stride": 8}])
def test_options_that_only_a_classifier_must_share(
    options: dict[str, object], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.pth", options)
    for to in ("timm", "mmengine", "detectron2"):
        load_backbone(str(path), to=to, options={})
    with pytest.raises(CheckpointError, match=next(iter(options))):
        load_backbone(str(path), to="timm", options={}, whole=True)
    load_backbone(str(path), to="timm", options=options, whole=True)
    with pytest.raises(CheckpointError, match=next(iter(options))):
        convert(path, tmp_path / "out.safetensors", arch="timm:resnet18")
    convert(path, tmp_path / "out.pth", arch="timm:resnet18", to="mmengine")


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3),
        torch.zeros(2, 3, dtype=torch.uint8),
        torch.zeros(9, dtype=torch.uint8),
        torch.tensor(list(b"[1]"), dtype=torch.uint8),
        torch.tensor(list(b'{"format": "dr_plugins.network", "arch": 1}'), dtype=torch.uint8),
        torch.tensor([1e9, float("nan")]),
        torch.tensor(list(b'{"arch": "resnet18"}'), dtype=torch.uint8),
    ],
)
def test_other_tensors_are_no_records(value: torch.Tensor) -> None:
    assert decode_record(value) is None


def write(path: Path, options: dict[str, object]) -> Path:
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    record = encode_record("resnet18", options)
    torch.save({"model": {**state, f"module.{RECORD_KEY}": record}}, path)
    return path


def test_a_checkpoint_gives_its_record_apart(tmp_path: Path) -> None:
    found = load_checkpoint(write(tmp_path / "a.pth", {"aa_layer": "avg"}))
    assert found.record == NetworkRecord("resnet18", {"aa_layer": "avg"})
    assert found.arch == "resnet18"
    assert RECORD_KEY not in found.state


def test_what_a_wrapper_keeps_is_no_weight(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    for kept in (torch.tensor(1.0), torch.zeros(3), {"step": 3}):
        torch.save({**state, RECORD_KEY: kept}, tmp_path / "a.pth")
        assert load_checkpoint(tmp_path / "a.pth").state.keys() == state.keys()
    torch.save({**state, RECORD_KEY: torch.ones(1024)}, tmp_path / "a.pth")  # a damaged record
    with pytest.raises(CheckpointError, match=RECORD_KEY):
        load_checkpoint(tmp_path / "a.pth")
    torch.save({**state, f"layer1.{RECORD_KEY}": torch.ones(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"layer1\.{RECORD_KEY}"):
        load_backbone(str(tmp_path / "a.pth"), to="timm", arch="resnet18")


@pytest.mark.parametrize("to", ["detectron2", "mmengine"])
def test_hosts_own_networks_have_no_options(to: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(CheckpointError, match="aa_layer=None"):
        load_backbone(str(write(tmp_path / "a.pth", {"aa_layer": "avg"})), to=to)
    free = {"drop_rate": 0.5, "pretrained": True}
    load_backbone(str(write(tmp_path / "b.pth", free)), to=to)


def test_a_conversion_that_would_forget_options_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    out = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match="aa_layer=None"):
        convert(write(tmp_path / "a.pth", {"aa_layer": "avg"}), out, arch="timm:resnet18")
    assert not out.exists()
    convert(write(tmp_path / "b.pth", {}), out, arch="timm:resnet18")


def test_records_survive_averaging_key_by_key(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    one = torch.load(write(tmp_path / "a.pth", {"drop_rate": 0.5}))["model"]
    averaged = {key: sum(value / 3 for _ in range(3)) for key, value in one.items()}
    torch.save({"model": averaged}, tmp_path / "soup.pth")
    found = load_checkpoint(tmp_path / "soup.pth")
    assert found.record == NetworkRecord("resnet18", {"drop_rate": 0.5})
    load_backbone(str(tmp_path / "soup.pth"), to="mmengine")
