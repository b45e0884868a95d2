"""Converted models give the logits of the original code, for every model that has them."""

from __future__ import annotations

import pytest
import torch
import torchvision

from dr_models.checkpoints import CVNETS_MODELS, convert_state_dict, torchvision_model
from tests.dr_models.checkpoints import golden

timm = pytest.importorskip("timm")
pytest.importorskip("dr_models")

pytestmark = golden.needs_golden


@pytest.mark.parametrize("name", ["mobilenetv1_0.25", "vit_tiny", "swin_tiny"])
def test_the_rule_draws_the_same_weights_as_when_the_numbers_were_made(name: str) -> None:
    checks = golden.specification(name)["checks"]
    state = golden.state_dict(name)
    total = sum(value.double().sum().item() for value in state.values())
    absolute = sum(value.double().abs().sum().item() for value in state.values())
    assert absolute == pytest.approx(checks["weights_abs_sum"], rel=1e-6)
    assert total == pytest.approx(checks["weights_sum"], abs=1e-6 * checks["weights_abs_sum"])
    assert golden.reference(name).image.double().sum().item() == pytest.approx(
        checks["input_sum"], rel=1e-6
    )


def test_logits_are_known_for_most_models() -> None:
    assert len(golden.WITH_LOGITS) > 0.75 * len(CVNETS_MODELS)


@pytest.mark.parametrize("name", golden.slow_if_large(golden.NAMES))
def test_every_key_finds_its_place(name: str) -> None:
    state = golden.state_dict(name)
    converted, report = convert_state_dict(state, name)
    assert report.model == f"{CVNETS_MODELS[name].timm}.dr_in1k_plus"
    assert len(report.matched) == len(state)
    assert report.missing == report.unexpected == report.ignored == report.dropped == []
    with torch.device("meta"):
        model = timm.create_model(report.model)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in converted.items()
    }


@pytest.mark.parametrize("name", golden.slow_if_large(golden.WITH_LOGITS))
def test_logits_are_those_of_the_original(name: str) -> None:
    converted, report = convert_state_dict(golden.state_dict(name), name)
    model = timm.create_model(report.model)
    model.load_state_dict(converted)
    golden.assert_reproduces(model, name)


@pytest.mark.parametrize(
    "name",
    golden.slow_if_large(
        [name for name in golden.WITH_LOGITS if CVNETS_MODELS[name].stock is not None]
    ),
)
def test_timms_own_networks_give_them_too_where_it_has_them(name: str) -> None:
    converted, report = convert_state_dict(golden.state_dict(name), name, stock=True)
    assert not report.model.startswith("cvnets_")
    model = timm.create_model(report.model, **report.model_kwargs)
    model.load_state_dict(converted)
    golden.assert_reproduces(model, name)


IN_TORCHVISION = {"mobilenetv2", "resnet", "vit", "swin"}


@pytest.mark.parametrize(
    "name",
    golden.slow_if_large(
        [name for name in golden.NAMES if CVNETS_MODELS[name].family in IN_TORCHVISION]
    ),
)
def test_torchvision_gives_them_where_it_has_the_layers(name: str) -> None:
    converted, report = convert_state_dict(golden.state_dict(name), name, "torchvision")
    assert report.checked
    model = torchvision_model(name)
    model.load_state_dict(converted)
    if name in golden.WITH_LOGITS:
        golden.assert_reproduces(model, name)


@pytest.mark.parametrize("name", ["resnet_18", "vit_tiny", "swin_tiny", "mobilenetv2_0.5"])
def test_torchvisions_plain_networks_do_not_take_these_files_by_mistake(name: str) -> None:
    converted, _ = convert_state_dict(golden.state_dict(name), name, "torchvision")
    plain = {
        "resnet_18": torchvision.models.resnet18,
        "vit_tiny": torchvision.models.vit_b_16,
        "swin_tiny": torchvision.models.swin_t,
        "mobilenetv2_0.5": torchvision.models.mobilenet_v2,
    }
    with torch.device("meta"):
        model = plain[name](weights=None)
    with pytest.raises(RuntimeError, match="Error"):
        model.load_state_dict(converted, assign=True)


def test_published_parameter_counts_come_out() -> None:
    for name in golden.NAMES:
        with torch.device("meta"):
            model = timm.create_model(CVNETS_MODELS[name].timm)
        # timm's ViT-384 stores the interpolated positions.
        extra = (576 - 196) * 768 if name == "vit_base_384" else 0
        count = sum(parameter.numel() for parameter in model.parameters())
        assert count - extra == golden.specification(name)["params"], name
