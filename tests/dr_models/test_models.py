"""The registered networks: names, inputs, feature extraction, loading."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

timm = pytest.importorskip("timm")

import dr_models.networks  # noqa: E402, F401
from dr_models.checkpoints import CVNETS_MODELS  # noqa: E402
from dr_models.cvnets.model import CVNetsModel  # noqa: E402
from dr_plugins.errors import CheckpointError  # noqa: E402

MODELS = list(CVNETS_MODELS.values())
SMALL = [
    CVNETS_MODELS[name]
    for name in (
        "mobilenetv1_0.25",
        "mobilenetv2_0.25",
        "mobilenetv3_small",
        "mobilevit_xx_small",
        "resnet_18",
        "efficientnet_b2",
        "vit_tiny",
        "swin_tiny",
    )
]
FIXED_SIZE = {"vit", "swin"}
# `image_augmentation.resize.size` in apple/ml-cvnets: config/classification/imagenet, and
# examples/range_augment for EfficientNet and Swin.
RESIZED = {
    "mobilenetv1_1.0": 256,
    "mobilenetv2_1.0": 256,
    "mobilenetv3_large": 256,
    "mobilevit_small": 288,
    "resnet_50": 256,
    "efficientnet_b2": 288,
    "efficientnet_b3": 320,
    "vit_base": 232,
    "swin_tiny": 256,
    "swin_small": 232,
}


def by_name(model: CVNetsModel) -> str:
    return model.name


def image(model: CVNetsModel, channels: int = 3) -> torch.Tensor:
    size = model.size if model.family in FIXED_SIZE else 64
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_all_are_registered_and_collide_with_nothing() -> None:
    names = {model.timm for model in MODELS}
    assert set(timm.list_models("cvnets_*")) == names
    assert len(names) == len(MODELS)
    command = "import timm; print(timm.list_models('cvnets*'))"
    fresh = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert fresh.stdout.strip() == b"[]"


@pytest.mark.parametrize("model", MODELS, ids=by_name)
def test_the_configuration_tells_the_truth_about_the_input(model: CVNetsModel) -> None:
    with torch.device("meta"):
        config = timm.data.resolve_model_data_config(timm.create_model(model.timm))
    assert config["mean"] == (0.0, 0.0, 0.0)
    assert config["std"] == (1.0, 1.0, 1.0)
    assert config["input_size"] == (3, model.size, model.size)
    assert config["interpolation"] == "bilinear"
    assert math.floor(model.size / config["crop_pct"]) == model.resize
    transform = timm.data.create_transform(**config)
    assert transform.transforms[0].size == model.resize


def test_images_are_resized_as_in_the_public_configurations() -> None:
    assert {name: CVNETS_MODELS[name].resize for name in RESIZED} == RESIZED


@pytest.mark.parametrize("model", SMALL, ids=by_name)
def test_features_are_those_of_the_whole_network(model: CVNetsModel) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(model.timm).eval()
    features = timm.create_model(model.timm, features_only=True).eval()
    # A list-style extractor renames a.b to a_b; others keep names or wrap the network.
    own = features.state_dict()
    for key, value in whole.state_dict().items():
        for name in (key, f"model.{key}", key.replace(".", "_", 1)):
            if name in own:
                own[name].copy_(value)
    with torch.inference_mode():
        maps = features(image(model))
        if model.family == "mobilevit":
            expected = [whole.forward_features(image(model))]
        else:
            expected = whole.forward_intermediates(image(model), intermediates_only=True)[-1:]
    assert [tensor.ndim for tensor in maps] == [4] * len(maps)
    channels = -1 if model.family == "swin" else 1
    assert [tensor.shape[channels] for tensor in maps] == features.feature_info.channels()
    last = maps[-1].permute(0, 3, 1, 2) if model.family == "swin" else maps[-1]
    torch.testing.assert_close(last, expected[0])
    assert last.abs().sum() > 0


@pytest.mark.parametrize("model", SMALL, ids=by_name)
def test_other_classes_and_channels_as_timm_lets_one(model: CVNetsModel) -> None:
    network = timm.create_model(model.timm, num_classes=5, in_chans=1).eval()
    with torch.inference_mode():
        assert network(image(model, 1)).shape == (1, 5)
    assert len(pickle.dumps(network)) > 0


def test_depthwise_convolutions_of_mobilenet_v1_have_no_activation() -> None:
    network = timm.create_model("cvnets_mobilenetv1_025")
    depthwise = [m for m in network.modules() if hasattr(m, "conv_dw")]
    assert len(depthwise) == 13
    assert all(isinstance(block.bn1.act, torch.nn.Identity) for block in depthwise)
    assert all(isinstance(block.bn2.act, torch.nn.ReLU) for block in depthwise)


@pytest.mark.parametrize(
    ("name", "eps"),
    [
        ("vit_tiny_patch16_224", 1e-6),
        ("swin_tiny_patch4_window7_224", 1e-5),
    ],
)
def test_eps_that_no_logit_would_show(name: str, eps: float) -> None:
    network = timm.create_model(f"cvnets_{name}")
    found = {m.eps for m in network.modules() if isinstance(m, torch.nn.LayerNorm)}
    assert found == {eps}


def test_swin_pads_before_it_shifts_at_any_size() -> None:
    from torchvision.models.swin_transformer import ShiftedWindowAttention

    from dr_models.families.swin.network import PadFirstBlock

    torch.manual_seed(0)
    block = (
        timm.create_model("cvnets_swin_tiny_patch4_window7_224", img_size=256).layers[0].blocks[1]
    )
    assert type(block) is PadFirstBlock
    block.eval()
    theirs = ShiftedWindowAttention(96, [7, 7], [3, 3], 3).eval()
    theirs.load_state_dict(
        {
            **block.attn.state_dict(),
            "relative_position_index": theirs.relative_position_index,
        }
    )
    torch.nn.init.normal_(theirs.relative_position_bias_table)
    block.attn.relative_position_bias_table.data.copy_(theirs.relative_position_bias_table)
    x = torch.rand(2, 64, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(block.attend(x), theirs(x))


def test_timm_loads_either_layout_by_its_own_means(tmp_path: Path) -> None:
    from dr_models.checkpoints import convert

    torch.manual_seed(0)
    model = CVNETS_MODELS["mobilenetv1_0.25"]
    whole = timm.create_model(model.timm).eval()
    values = whole.state_dict()
    raw = {entry.source: values[entry.target] for entry in model.entries()}
    torch.save(raw, tmp_path / "best.pt")
    convert(tmp_path / "best.pt", tmp_path / "best.safetensors", arch=model.name)

    converted = timm.create_model(model.timm, checkpoint_path=str(tmp_path / "best.safetensors"))
    overlay = {"file": str(tmp_path / "best.pt")}
    direct = timm.create_model(
        model.timm, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=7
    )
    features = timm.create_model(
        model.timm,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "best.safetensors")},
        features_only=True,
    )
    assert torch.equal(converted.classifier.weight, whole.classifier.weight)
    for network in (converted, direct, features):
        assert torch.equal(network.conv_stem.weight, whole.conv_stem.weight)
        assert torch.equal(network.blocks[4][1].bn2.running_var, whole.blocks[4][1].bn2.running_var)


@pytest.mark.parametrize("options", [{"num_classes": 7}, {"features_only": True}])
def test_timm_keeps_no_random_weights(options: dict[str, object], tmp_path: Path) -> None:
    """Where it drops the classifier, it would only warn of names that do not fit."""
    state = timm.create_model("cvnets_mobilenetv1_025").state_dict()
    prefixed = {f"model.{key}": value for key, value in state.items()}
    torch.save({"model_state_dict": state, "epoch": 1}, tmp_path / "training.pt")
    torch.save(prefixed, tmp_path / "prefixed.pt")
    torch.save({**prefixed, **dict(list(state.items())[9:])}, tmp_path / "partly.pt")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(CheckpointError, match=r"conv_stem\.weight"):
            timm.create_model(
                "cvnets_mobilenetv1_025",
                pretrained=True,
                pretrained_cfg_overlay={"file": str(path)},
                **options,
            )
