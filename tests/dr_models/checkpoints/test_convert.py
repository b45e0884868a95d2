"""Conversions: wrappers, heads, partial files, refusals, and the files that come out."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from click.testing import CliRunner

from dr_models.catalog import canonical_name
from dr_models.checkpoints import (
    CVNETS_MODELS,
    TARGETS,
    CheckpointLocation,
    candidates,
    check_convention,
    convert,
    convert_state_dict,
    load_backbone,
    load_checkpoint,
    read_convention,
    read_metadata,
    torchvision_model,
)
from dr_models.cli import convert_checkpoint
from dr_plugins.errors import CheckpointError
from tests.dr_models.checkpoints.networks import cvnets_state

TINY = "mobilenetv1_0.25"


@pytest.fixture(scope="module")
def tiny() -> dict[str, torch.Tensor]:
    return cvnets_state(TINY)


def test_names_of_tables_folders_and_timm() -> None:
    for name, model in CVNETS_MODELS.items():
        assert canonical_name(name) == name
        assert canonical_name(f"{name}_E1000") == name
        assert canonical_name(model.timm) == name
    assert canonical_name("swin-384_base_E300") == "swin_base_384"
    assert canonical_name("other-384_base") == "other-384_base"


def test_wrappers_and_augmentation_change_nothing(tiny: dict[str, torch.Tensor]) -> None:
    wrapped = {f"module.{key}": value for key, value in tiny.items()}
    wrapped["module.neural_augmentor.brightness._low"] = torch.zeros(1)
    plain, _ = convert_state_dict(tiny, TINY)
    converted, report = convert_state_dict(wrapped, TINY)
    assert report.ignored == ["neural_augmentor.brightness._low"]
    assert converted.keys() == plain.keys()
    assert all(torch.equal(converted[key], plain[key]) for key in plain)


def test_other_numbers_of_classes_and_none(tiny: dict[str, torch.Tensor]) -> None:
    fine_tuned = {
        key: value[:7] if key.startswith("classifier") else value for key, value in tiny.items()
    }
    converted, report = convert_state_dict(fine_tuned, TINY)
    assert report.num_classes == 7
    assert converted["classifier.weight"].shape == (7, 256)
    headless = {key: value for key, value in tiny.items() if not key.startswith("classifier")}
    converted, report = convert_state_dict(headless, TINY)
    assert report.num_classes == 0
    assert not report.missing
    assert "classifier.weight" not in converted


def test_a_partial_checkpoint_only_when_asked_for(tiny: dict[str, torch.Tensor]) -> None:
    partial = {key: value for key, value in tiny.items() if not key.startswith("layer_5.1.")}
    partial["surprise"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"12 are missing \(layer_5\.1.*1 are unexpected"):
        convert_state_dict(partial, TINY)
    converted, report = convert_state_dict(partial, TINY, allow_partial=True)
    assert len(report.missing) == 12
    assert report.unexpected == ["surprise"]
    assert len(converted) == len(tiny) - 12


@pytest.mark.parametrize("allow_partial", [True, False])
def test_a_prefix_is_named_and_nothing_is_no_part(allow_partial: bool) -> None:
    timm = pytest.importorskip("timm")
    state = timm.create_model("test_resnet").state_dict()
    prefixed = {f"backbone.{key}": value for key, value in state.items()}
    message = r"0 keys match, .*All keys begin with 'backbone\.'; save the state dict of that part"
    with pytest.raises(CheckpointError, match=message):
        convert_state_dict(prefixed, "timm:test_resnet", allow_partial=allow_partial)


def test_another_architecture_is_named(tiny: dict[str, torch.Tensor]) -> None:
    assert candidates(tiny) == [TINY]
    with pytest.raises(CheckpointError, match=r"mobilenetv1_0\.25.*resnet_50"):
        convert_state_dict(tiny, "resnet_50")
    wider = {**tiny, "classifier.classifier_fc.weight": torch.zeros(1000, 300)}
    with pytest.raises(CheckpointError, match=r"classifier_fc\.weight has shape"):
        convert_state_dict(wider, TINY)
    with pytest.raises(CheckpointError, match=r"'nothing'.*timm:NAME"):
        convert_state_dict(tiny, "nothing")
    with pytest.raises(CheckpointError, match=r"CVNets.*conv1\.weight.*timm:NAME"):
        convert_state_dict({"conv1.weight": torch.zeros(1)}, TINY)


def test_sizes_that_differ_inside_are_refused(tiny: dict[str, torch.Tensor]) -> None:
    key = "layer_3.0.dw_conv.block.conv.weight"
    with pytest.raises(CheckpointError, match=r"\[32, 1, 5, 5\].*\[32, 1, 3, 3\]"):
        convert_state_dict({**tiny, key: torch.zeros(32, 1, 5, 5)}, TINY)


@pytest.mark.parametrize("name", sorted(CVNETS_MODELS))
def test_each_host_has_it_or_refuses_by_name(name: str) -> None:
    in_torchvision = CVNETS_MODELS[name].family in {"mobilenetv2", "resnet", "vit", "swin"}
    for to in ("detectron2", "mmengine", "torchvision")[: 2 if in_torchvision else 3]:
        message = rf"{name} .*{to}: .*timm"
        with pytest.raises(CheckpointError, match=message):
            convert_state_dict({}, name, to)


def test_mobilenet_v2_in_torchvision_computes_what_timm_does() -> None:
    timm = pytest.importorskip("timm")
    state = cvnets_state("mobilenetv2_1.0")
    converted, report = convert_state_dict(state, "mobilenetv2_1.0", "torchvision")
    theirs = torchvision.models.get_model(report.model, weights=None).eval()
    theirs.load_state_dict(converted)
    converted, report = convert_state_dict(state, "mobilenetv2_1.0")
    ours = timm.create_model(report.model).eval()
    ours.load_state_dict(converted)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(image), ours(image))


@pytest.mark.parametrize(("source", "to"), [("torchvision", "timm"), ("timm", "torchvision")])
def test_resnets_are_the_same_in_timm_and_torchvision(source: str, to: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    one = torchvision.models.resnet18(num_classes=9).eval()
    two = timm.create_model("resnet18", num_classes=9).eval()
    one, two = (one, two) if source == "torchvision" else (two, one)
    converted, report = convert_state_dict(one.state_dict(), f"{source}:resnet18", to)
    assert (report.model, report.layout, report.num_classes) == ("resnet18", source, 9)
    two.load_state_dict(converted)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(one(image), two(image))


def test_host_checkpoints_are_compared_with_the_host() -> None:
    with torch.device("meta"):
        state = torchvision.models.resnet18(weights=None).state_dict()
        other = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    with pytest.raises(CheckpointError, match="only ResNets"):
        convert_state_dict(other, "torchvision:mobilenet_v3_small", "timm")
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight.*wide_resnet50_2"):
        convert_state_dict(state, "torchvision:wide_resnet50_2", "torchvision")
    with pytest.raises(CheckpointError, match="30 are missing"):
        convert_state_dict(
            {key: value for key, value in state.items() if not key.startswith("layer4")},
            "torchvision:resnet18",
            "torchvision",
        )
    with pytest.raises(CheckpointError, match="no classification model 'nothing'"):
        convert_state_dict(state, "torchvision:nothing", "torchvision")
    for option in ({"stock": True}, {"stored_indices": True}):
        with pytest.raises(CheckpointError, match="not one of the CVNets models"):
            convert_state_dict(state, "torchvision:resnet18", **option)


def test_options_that_do_not_apply(tiny: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"mobilenetv1_0\.25.*cvnets_mobilenetv1_025"):
        convert_state_dict(tiny, TINY, stock=True)
    with pytest.raises(CheckpointError, match="only Swin"):
        convert_state_dict(tiny, TINY, stored_indices=True)
    with pytest.raises(CheckpointError, match="cannot convert to 'keras'"):
        convert_state_dict(tiny, TINY, "keras")


def test_the_file_says_what_it_is(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"model_state_dict": tiny, "ema_state_dict": tiny}, tmp_path / "best.pt")
    out = tmp_path / "tiny.safetensors"
    report = convert(tmp_path / "best.pt", out, arch="mobilenetv1_0.25_E300")
    metadata = read_metadata(out)
    assert metadata["format"] == "pt"
    assert metadata["arch"] == TINY
    assert (metadata["source_layout"], metadata["layout"]) == ("cvnets", "timm")
    assert metadata["model"] == report.model == "cvnets_mobilenetv1_025.dr_in1k_plus"
    assert json.loads(metadata["model_kwargs"]) == {}
    assert (metadata["source"], metadata["weights"]) == ("best.pt", "ema_state_dict")
    assert metadata["num_classes"] == "1000"
    inputs = read_convention(out)
    assert (inputs.mean, inputs.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert (inputs.input_size, inputs.interpolation, inputs.crop_pct) == (
        (224, 224),
        "bilinear",
        0.875,
    )
    expected, _ = convert_state_dict(tiny, TINY)
    found = safetensors.torch.load_file(out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_what_timm_and_torchvision_feed_their_networks(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "a.pt")
    out = tmp_path / "out.pth"
    convert(tmp_path / "a.pt", out, arch="torchvision:resnet18", to="detectron2")
    assert read_convention(out).mean == (0.485, 0.456, 0.406)
    half = (0.5, 0.5, 0.5)
    convert(tmp_path / "a.pt", out, arch="resnet18", to="detectron2", mean=half, std=half)
    assert read_convention(out).std == half
    out = tmp_path / "out.safetensors"
    convert(tmp_path / "a.pt", out, arch="resnet18", to="timm", mean=half, std=half)
    again = tmp_path / "again.pth"
    convert(out, again, arch="timm:resnet18", to="mmengine")
    assert read_convention(again).mean == half


def test_a_torchvision_network_that_needs_more_than_shapes() -> None:
    state = torchvision.models.regnet_y_400mf(weights=None, num_classes=3).state_dict()
    converted, report = convert_state_dict(state, "torchvision:regnet_y_400mf", "torchvision")
    assert report.num_classes == 3
    assert converted.keys() == state.keys()


def test_what_cannot_be_written(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(tiny, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"name it \*\.safetensors"):
        convert(tmp_path / "best.pt", tmp_path / "out.pt", arch=TINY)
    with pytest.raises(CheckpointError, match="cannot write"):
        convert(tmp_path / "best.pt", tmp_path / "no" / "out.safetensors", arch=TINY)
    with pytest.raises(CheckpointError, match=r"mobilenetv1_0\.25.*mean and std"):
        convert(tmp_path / "best.pt", tmp_path / "o.safetensors", arch=TINY, mean=(0.5, 0.5, 0.5))


def test_the_checkpoint_itself_is_never_replaced(
    tiny: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    safetensors.torch.save_file(tiny, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "b.safetensors").hardlink_to(tmp_path / "a.safetensors")
    for out in ("a.safetensors", "b.safetensors"):
        with pytest.raises(CheckpointError, match="itself"):
            convert(tmp_path / "a.safetensors", tmp_path / out, arch=TINY)
    assert (tmp_path / "a.safetensors").read_bytes() == before


DEFAULTS: list[tuple[Any, dict[str, Any]]] = [
    (convert, {"out": None, "to": "timm", "averaged": None, "stock": False}),
    (convert, {"stored_indices": False, "allow_partial": False, "mean": None, "std": None}),
    (convert_state_dict, {"to": "timm", "stock": False, "stored_indices": False}),
    (convert_state_dict, {"allow_partial": False}),
    (load_backbone, {"arch": None, "options": None}),
    (load_checkpoint, {"averaged": None}),
    (check_convention, {"top": 1.0, "bgr": False}),
    (torchvision_model, {"num_classes": 1000}),
    (CheckpointLocation, {"source": "auto", "arch": None, "averaged": None}),
    (CheckpointLocation, {"stored_indices": False}),
]


@pytest.mark.parametrize(("function", "expected"), DEFAULTS)
def test_defaults_of_public_arguments(function: Any, expected: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_the_command(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(tiny, tmp_path / "best.pt")
    out = tmp_path / "tiny.safetensors"
    arguments = [str(tmp_path / "best.pt"), "--arch", TINY, "--out", str(out)]
    result = CliRunner().invoke(convert_checkpoint, arguments)
    assert result.exit_code == 0, result.output
    assert "164 matched, 0 missing, 0 unexpected" in result.output
    assert "mean [0.0, 0.0, 0.0], std [1.0, 1.0, 1.0], 224×224" in result.output
    assert out.is_file()
    arguments[-1] = str(tmp_path / "tiny.pth")
    result = CliRunner().invoke(convert_checkpoint, [*arguments, "--to", "detectron2"])
    assert result.exit_code == 1
    assert "mobilenetv1_0.25 cannot be converted to detectron2" in result.output


def test_the_command_offers_every_target() -> None:
    option = next(option for option in convert_checkpoint.params if option.name == "to")
    assert tuple(option.type.choices) == tuple(TARGETS)  # type: ignore[attr-defined]
