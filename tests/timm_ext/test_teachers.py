from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from timm.models import register_model
from torch import nn

from dr_models.checkpoints import convert
from dr_models.timm_models import load_model
from dr_plugins.errors import CheckpointError, TeacherError
from dr_plugins.generation.teacher_schemes import load_teacher
from dr_plugins.generation.teachers import Ensemble, weights_digest
from tests.tiny import make_set, policy
from timm_ext.teachers import TimmTeacher, load_timm_teacher

VIEWS = torch.randint(0, 256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3).eval()


def logits_of(model: Any, views: torch.Tensor) -> torch.Tensor:
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    size = config["input_size"][1:]
    images = F.interpolate(views.float(), size, mode=config["interpolation"], antialias=True)
    with torch.inference_mode():
        return model((images.clamp(0, 255) / 255 - mean) / std)


def test_views_are_resized_and_normalised_for_the_model(model: nn.Module) -> None:
    teacher = TimmTeacher(model)
    assert teacher.size == (160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(teacher(VIEWS), logits_of(model, VIEWS), rtol=1e-4, atol=1e-4)
        whole = torch.randint(0, 256, (1, 3, 160, 160), dtype=torch.uint8)
        torch.testing.assert_close(teacher(whole), logits_of(model, whole), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(24, 24), (56, 48)])
@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_whole_views_are_resized_as_pillow_does(name: str, size: tuple[int, int]) -> None:
    own = timm.create_model("dr_plugins_test_model")
    own.pretrained_cfg |= {"input_size": (3, *size), "interpolation": name, "crop_pct": 0.5}
    own.pretrained_cfg |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    own.forward = lambda images: images
    views = 80 + VIEWS // 3  # bicubic overshoots, and Pillow clips between its two passes
    found = TimmTeacher(own)(views) * 255
    assert found.shape == (2, 3, *size)
    for view, image in zip(views, found, strict=True):
        pixels = Image.fromarray(view.permute(1, 2, 0).numpy())
        whole = pixels.resize(size[::-1], Image.Resampling[name.upper()])
        expected = torch.from_numpy(np.array(whole)).permute(2, 0, 1).float()
        # Pillow rounds after each of its two passes.
        assert (image - expected).abs().max() < 2
        assert (image - expected).abs().mean() < 0.5
    other = "BICUBIC" if name == "bilinear" else "BILINEAR"
    wrong = np.array(pixels.resize(size[::-1], Image.Resampling[other]))
    assert (image - torch.from_numpy(wrong).permute(2, 0, 1)).abs().mean() > 1.5


def test_unknown_interpolation() -> None:
    own = timm.create_model("dr_plugins_test_model")
    own.pretrained_cfg["interpolation"] = "lanczos"
    with pytest.raises(TeacherError, match="'lanczos'; expected one of bilinear, bicubic"):
        TimmTeacher(own)


def test_checkpoints(model: nn.Module, tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    expected = logits_of(model, VIEWS)
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "b.pth")
    # As train.py writes them, with its arguments and averaged weights.
    saved = {"epoch": 1, "arch": "test_resnet", "args": argparse.Namespace(lr=0.1)}
    saved |= {"state_dict": other, "state_dict_ema": state}
    torch.save(saved, tmp_path / "last.pth.tar")
    digests = set()
    for file in sorted(tmp_path.iterdir()):
        teacher = load_teacher(f"timm:test_resnet@{file}")
        with torch.inference_mode():
            torch.testing.assert_close(teacher(VIEWS), expected, rtol=1e-4, atol=1e-4)
        assert not teacher.training
        digests.add(weights_digest(teacher))
    assert len(digests) == 1


def test_a_checkpoint_brings_the_images_that_it_was_trained_on(
    model: nn.Module, tmp_path: Path
) -> None:
    images = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "img_size": 40}
    saved = argparse.Namespace(lr=0.1, input_size=None, interpolation="bilinear", **images)
    torch.save({"state_dict": model.state_dict(), "args": saved}, tmp_path / "last.pth.tar")
    teacher = load_teacher(f"timm:test_resnet@{tmp_path / 'last.pth.tar'}")
    assert (teacher.size, teacher.interpolation.value) == ((40, 40), "bilinear")
    mean, std = (torch.tensor(images[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        expected = model((VIEWS / 255 - mean) / std)
        torch.testing.assert_close(teacher(VIEWS), expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_brings_the_options_of_its_network(tmp_path: Path) -> None:
    """Which may have no tensors, as another activation or pooling."""
    options = {"act_layer": "gelu", "global_pool": "max"}
    network = timm.create_model("test_resnet", num_classes=3, **options).eval()
    saved = argparse.Namespace(model_kwargs={"act_layer": "gelu"}, gp="max", bn_eps=None)
    torch.save({"state_dict": network.state_dict(), "args": saved}, tmp_path / "last.pth.tar")
    teacher = load_teacher(f"timm:test_resnet@{tmp_path / 'last.pth.tar'}")
    evaluated = load_model(f"test_resnet@{tmp_path / 'last.pth.tar'}").network.eval()
    with torch.inference_mode():
        expected = logits_of(network, VIEWS)
        torch.testing.assert_close(teacher(VIEWS), expected, rtol=1e-4, atol=1e-4)
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        assert torch.equal(evaluated(images), network(images))


def test_a_converted_checkpoint_brings_its_images(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "converted.safetensors"
    torch.save(model.state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", path, arch="timm:test_resnet", mean=(0, 0, 0), std=(1, 1, 1))
    teacher = load_teacher(f"timm:test_resnet@{path}")
    assert (teacher.mean.unique().tolist(), teacher.std.unique().tolist()) == ([0], [1])


def test_a_checkpoint_of_a_variant_with_other_images_or_another_function(tmp_path: Path) -> None:
    variant = "efficientnet_b0.ra4_e3600_r224_in1k"
    network = timm.create_model(variant, num_classes=3)
    half = network.pretrained_cfg["mean"]
    assert half != timm.get_pretrained_cfg("efficientnet_b0").mean
    path = tmp_path / "last.pth.tar"
    torch.save({"state_dict": network.state_dict(), "arch": variant}, path)
    for name in ("efficientnet_b0", variant):
        assert tuple(load_teacher(f"timm:{name}@{path}").mean.flatten().tolist()) == half
        assert load_model(f"{name}@{path}").identity["input"]["mean"] == half
    with pytest.raises(TeacherError, match="tf_efficientnet_b0"):  # pads otherwise
        load_teacher(f"timm:tf_efficientnet_b0@{path}")


def test_pretrained_models(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def create(name: str, **options: Any) -> nn.Module:
        calls.append((name, options))
        return model

    monkeypatch.setattr(timm, "create_model", create)
    for name in ("test_resnet", "test_resnet.r160_in1k", "hf-hub:timm/test_resnet@main"):
        load_timm_teacher(name)
    assert calls == [
        ("test_resnet", {"pretrained": True}),
        ("test_resnet.r160_in1k", {"pretrained": True}),
        ("hf-hub:timm/test_resnet@main", {"pretrained": True}),
    ]


def test_old_names_that_stand_for_another_network() -> None:
    with pytest.raises(TeacherError, match=r"resnext101_32x8d\.fb_wsl_ig1b_ft_in1k"):
        load_teacher("timm:ig_resnext101_32x48d")
    with pytest.raises(CheckpointError, match=r"resnext101_32x8d\.fb_wsl_ig1b_ft_in1k"):
        load_model("ig_resnext101_32x48d")


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError("name resolution failed")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(TeacherError) as error:
        load_teacher("timm:resnet50")
    for part in ("timm:resnet50", "name resolution failed", "network", "resnet50@"):
        assert part in str(error.value)


@register_model
def dr_plugins_test_model(pretrained: bool = False, **options: Any) -> nn.Module:
    """A user's own model, without a data configuration or weights."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_classes = options.get("num_classes", 7)
            assert torch.linspace(0, 1, 3)[1].item() == 0.5  # as networks find their drop rates
            self.head = nn.Linear(3, self.num_classes)
            self.pretrained_cfg = {"classifier": "head", "input_size": (3, 8, 8)}

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(images.mean((2, 3)))

    if pretrained:
        raise RuntimeError("No pretrained weights exist for dr_plugins_test_model.")
    return Model()


def test_models_of_the_users_own(tmp_path: Path) -> None:
    own = timm.create_model("dr_plugins_test_model", num_classes=4)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    teacher = load_teacher(f"timm:dr_plugins_test_model@{tmp_path / 'own.safetensors'}")
    assert teacher(VIEWS).shape == (2, 4)
    with pytest.raises(TeacherError, match="No pretrained weights exist"):
        load_teacher("timm:dr_plugins_test_model")


def test_unknown_models() -> None:
    with pytest.raises(TeacherError, match=r"'resnet5O'.*resnet50"):
        load_teacher("timm:resnet5O")
    with pytest.raises(TeacherError, match="'zzzzzzzz'"):
        load_teacher("timm:zzzzzzzz@file.pth")


class Touch:
    """Unpickles by touching a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_unusable_checkpoints(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 16)
    (tmp_path / "damaged.pth").write_bytes(b"x")
    torch.save({"state_dict": Touch(tmp_path / "touched")}, tmp_path / "harmful.pth")
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    state = dict(list(model.state_dict().items())[:-3])
    torch.save(state, tmp_path / "partial.pth")
    for file in sorted(tmp_path.iterdir()):
        with pytest.raises(TeacherError, match=f"test_resnet.*{file.name}"):
            load_teacher(f"timm:test_resnet@{file}")
    assert not (tmp_path / "touched").exists()
    for missing in ("no.pth", "", "."):
        with pytest.raises(TeacherError, match=f"test_resnet@{missing}"):
            load_teacher(f"timm:test_resnet@{missing}")


def test_models_of_grey_images() -> None:
    own = timm.create_model("dr_plugins_test_model")
    own.pretrained_cfg["input_size"] = (1, 8, 8)
    with pytest.raises(TeacherError, match="takes 1 channels"):
        TimmTeacher(own)


def test_as_teacher_of_a_shard_set(model: nn.Module, photographs: Path, tmp_path: Path) -> None:
    from dr_plugins import ShardSet

    teacher = TimmTeacher(model)
    out = make_set(tmp_path / "set", photographs, policy_=policy("rrc"), teacher=teacher, topk=3)
    record = ShardSet(out)["n01/n01_2.JPEG", 0]
    assert sorted(record["ids"].tolist()) == [0, 1, 2]
    assert record["probs"].sum() == pytest.approx(1, abs=2e-3)
    assert Ensemble([teacher])(VIEWS).shape == (2, 3)
