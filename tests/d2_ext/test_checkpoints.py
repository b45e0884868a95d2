"""``imagenet-plus://`` addresses in Detectron2's own checkpointer, and what it checks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathHandler, PathManager
from fvcore.common.checkpoint import Checkpointer
from torch import nn

import d2_ext
from d2_ext import TimmBackbone
from d2_ext.log import logger
from dr_models.checkpoints import TARGETS, convert
from dr_plugins.errors import BackboneError, CheckpointError
from tests.d2_ext.conftest import MEAN, NATIVE, TIMM, Saved, Yacs, random_network


def is_filled(model: nn.Module, network: nn.Module) -> bool:
    backbone = model.backbone.bottom_up
    if isinstance(backbone, TimmBackbone):
        return torch.equal(backbone.network.features.layer4[1].conv2.weight, deepest(network))
    return torch.equal(backbone.res5[1].conv2.weight, deepest(network))


def deepest(network: Any) -> torch.Tensor:
    return network.layer4[1].conv2.weight


@pytest.mark.parametrize("options", [TIMM, NATIVE], ids=["timm", "native"])
@pytest.mark.parametrize("query", ["", "?source=timm&arch=resnet18"])
def test_checkpointer_loads_an_address(
    options: tuple[Any, ...], query: str, yacs: Yacs, saved: Saved
) -> None:
    network, path = saved("resnet18")
    model = build_model(yacs(*options))
    assert not is_filled(model, network)
    rest = DetectionCheckpointer(model).resume_or_load(
        f"imagenet-plus://{path}{query}", resume=False
    )
    assert rest == {}
    assert is_filled(model, network)


@pytest.mark.parametrize("options", [TIMM, NATIVE], ids=["timm", "native"])
def test_checkpointer_loads_what_was_converted_before(
    options: tuple[Any, ...], yacs: Yacs, saved: Saved, tmp_path: Path
) -> None:
    network, path = saved("resnet18")
    to = "timm" if options is TIMM else "detectron2"
    out = tmp_path / f"converted{TARGETS[to]}"
    convert(path, out, arch="timm:resnet18", to=to)
    model = build_model(yacs(*options))
    DetectionCheckpointer(model).load(f"imagenet-plus://{out}")
    assert is_filled(model, network)


@pytest.mark.parametrize("options", [TIMM, NATIVE], ids=["timm", "native"])
@pytest.mark.parametrize("other", ["resnet34", "resnet26d"])
def test_checkpointer_refuses_another_network(
    options: tuple[Any, ...], other: str, yacs: Yacs, saved: Saved
) -> None:
    _, path = saved(other)
    model = build_model(yacs(*options))
    with pytest.raises(CheckpointError):
        DetectionCheckpointer(model).load(f"imagenet-plus://{path}")


def test_missing_file(yacs: Yacs, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no\.pth"):
        DetectionCheckpointer(build_model(yacs(*NATIVE))).load(f"imagenet-plus://{tmp_path}/no.pth")


def test_a_classifiers_file_without_the_scheme_is_refused(yacs: Yacs, saved: Saved) -> None:
    _, path = saved("resnet18")
    model = build_model(yacs(*TIMM))
    with pytest.raises(CheckpointError, match=re.escape(f"imagenet-plus://{path}")):
        DetectionCheckpointer(model).load(str(path))


def test_other_files_load_as_ever(yacs: Yacs, tmp_path: Path) -> None:
    for options in (TIMM, NATIVE):
        first, second = build_model(yacs(*options)), build_model(yacs(*options))
        DetectionCheckpointer(first, str(tmp_path)).save("detector", extra=7)
        rest = DetectionCheckpointer(second).load(str(tmp_path / "detector.pth"))
        assert rest["extra"] == 7
        state = second.state_dict()
        assert all(torch.equal(state[key], value) for key, value in first.state_dict().items())
    assert DetectionCheckpointer(build_model(yacs(*TIMM))).load("") == {}


def test_models_without_such_a_backbone_are_refused(saved: Saved) -> None:
    _, path = saved("resnet18")
    with pytest.raises(CheckpointError, match="build_dr_timm_fpn_backbone"):
        DetectionCheckpointer(nn.Linear(1, 1)).load(f"imagenet-plus://{path}")


def test_registration_is_done_once() -> None:
    before = DetectionCheckpointer.load
    d2_ext.register_checkpoints()
    assert DetectionCheckpointer.load is before


def test_path_manager_gives_a_file_that_detectron2_reads(yacs: Yacs, saved: Saved) -> None:
    network, path = saved("resnet18")
    address = f"imagenet-plus://{path}?source=timm&arch=resnet18"
    assert PathManager.isfile(address)
    assert PathManager.exists(address)
    assert not PathManager.isfile(f"imagenet-plus://{path}x")
    local = PathManager.get_local_path(address)
    assert PathManager.get_local_path(address) == local
    model = build_model(yacs(*NATIVE))
    DetectionCheckpointer(model).load(local)
    assert is_filled(model, network)
    with PathManager.open(address, "rb") as file:
        assert set(torch.load(file)["model"]) > {"stem.conv1.weight", "res5.1.conv2.norm.bias"}
    with pytest.raises(CheckpointError, match="only be read"):
        PathManager.open(address, "w")


class Elsewhere(PathHandler):
    """Files that another handler brings here."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _get_supported_prefixes(self) -> list[str]:
        return ["elsewhere://"]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        return str(self.folder / path.removeprefix("elsewhere://"))


def test_addresses_of_other_handlers_can_be_inside(yacs: Yacs, saved: Saved) -> None:
    network, path = saved("resnet18")
    PathManager.register_handler(Elsewhere(path.parent), allow_override=True)
    model = build_model(yacs(*NATIVE))
    address = f"imagenet-plus://elsewhere://{path.name}?source=timm"
    DetectionCheckpointer(model).load(address)
    assert is_filled(model, network)


WRONG = [
    ("INPUT.FORMAT", "BGR", ("INPUT.FORMAT", "'BGR'", "RGB")),
    ("MODEL.PIXEL_MEAN", MEAN[::-1], ("MODEL.PIXEL_MEAN: [123.675, 116.28, 103.53]",)),
    ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], ("MODEL.PIXEL_STD: [58.395, 57.12, 57.375]",)),
]


@pytest.mark.parametrize("options", [TIMM, NATIVE], ids=["timm", "native"])
@pytest.mark.parametrize(("key", "value", "names"), WRONG)
def test_other_images_are_refused_before_anything_is_loaded(
    key: str, value: Any, names: tuple[str, ...], options: tuple[Any, ...], yacs: Yacs, saved: Saved
) -> None:
    network, path = saved("resnet18")
    model = build_model(yacs(*options, key, value))
    with pytest.raises(CheckpointError) as error:
        DetectionCheckpointer(model).load(f"imagenet-plus://{path}")
    assert all(name in str(error.value) for name in (*names, "use_checkpoint"))
    assert not is_filled(model, network)


def test_a_backbone_knows_the_format_where_the_model_does_not(yacs: Yacs, saved: Saved) -> None:
    _, path = saved("resnet18")
    options = ("MODEL.META_ARCHITECTURE", "ProposalNetwork", "INPUT.FORMAT", "BGR")
    with pytest.raises(CheckpointError, match=r"input_format of backbone\.bottom_up"):
        DetectionCheckpointer(build_model(yacs(*TIMM, *options))).load(f"imagenet-plus://{path}")


class ConfiguredTrainer:
    """What `DefaultTrainer` shows of itself."""

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg

    def state_dict(self) -> dict[str, Any]:
        return {}


def test_the_trainers_configuration_is_looked_at(yacs: Yacs, saved: Saved) -> None:
    _, path = saved("resnet18")
    cfg = yacs(*NATIVE, "MODEL.META_ARCHITECTURE", "ProposalNetwork", "INPUT.FORMAT", "BGR")
    model = build_model(cfg)
    DetectionCheckpointer(model).load(f"imagenet-plus://{path}")
    checkpointer = DetectionCheckpointer(model, trainer=ConfiguredTrainer(cfg))
    with pytest.raises(CheckpointError, match=r"INPUT\.FORMAT is 'BGR'"):
        checkpointer.load(f"imagenet-plus://{path}")


@pytest.mark.parametrize("aspect_ratio_grouping", [True, False])
def test_the_mapper_of_the_training_data_is_looked_at(
    aspect_ratio_grouping: bool, yacs: Yacs, saved: Saved, coco: str
) -> None:
    from detectron2.data import get_detection_dataset_dicts

    _, path = saved("resnet18")
    model = build_model(yacs(*NATIVE))
    for image_format in ("BGR", "RGB"):
        loader = build_detection_train_loader(
            get_detection_dataset_dicts(coco),
            mapper=DatasetMapper(is_train=True, augmentations=[], image_format=image_format),
            total_batch_size=1,
            aspect_ratio_grouping=aspect_ratio_grouping,
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        trainer = SimpleTrainer(model, loader, optimizer)
        checkpointer = DetectionCheckpointer(model, trainer=trainer)
        if image_format == "RGB":
            checkpointer.load(f"imagenet-plus://{path}")
        else:
            with pytest.raises(CheckpointError, match="mapper is 'BGR'"):
                checkpointer.load(f"imagenet-plus://{path}")


class Holder(nn.Module):
    """A model that holds a detector, as distillation, averaging and wrappers do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize("options", [TIMM, NATIVE], ids=["timm", "native"])
def test_a_detector_within_another_model_is_looked_at(
    options: tuple[Any, ...], yacs: Yacs, saved: Saved
) -> None:
    network, path = saved("resnet18")
    wrong = Holder(build_model(yacs(*options, "MODEL.PIXEL_STD", [1.0, 1.0, 1.0])))
    with pytest.raises(CheckpointError, match=r"MODEL\.PIXEL_STD: \[58\.395"):
        DetectionCheckpointer(wrong).load(f"imagenet-plus://{path}")
    assert not is_filled(wrong.module, network)
    right = Holder(build_model(yacs(*options)))
    DetectionCheckpointer(right).load(f"imagenet-plus://{path}")
    assert is_filled(right.module, network)


@pytest.mark.parametrize("options", [TIMM, NATIVE], ids=["timm", "native"])
def test_a_whole_detector_is_named_as_such(
    options: tuple[Any, ...], yacs: Yacs, tmp_path: Path
) -> None:
    model = build_model(yacs(*options))
    DetectionCheckpointer(model, str(tmp_path)).save("model_final")
    path = tmp_path / "model_final.pth"
    with pytest.raises(CheckpointError, match="without imagenet-plus://") as error:
        DetectionCheckpointer(model).load(f"imagenet-plus://{path}")
    assert "whole model (backbone, proposal_generator, roi_heads)" in str(error.value)
    DetectionCheckpointer(model).load(str(path))


def test_a_warning_where_nothing_tells(
    saved: Saved, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = saved("resnet18")
    backbone = TimmBackbone("resnet18")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    DetectionCheckpointer(backbone).load(f"imagenet-plus://{path}")
    assert "set INPUT.FORMAT to RGB" in caplog.text
    assert str(MEAN) in caplog.text
    assert backbone.network.is_loaded


def test_fvcores_checkpointer_is_left_alone() -> None:
    assert Checkpointer.load.__module__ == "fvcore.common.checkpoint"


class StudentCheckpointer(DetectionCheckpointer):
    """Loads one of two models, as those of semi-supervised detectors do."""

    def _load_model(self, checkpoint: Any) -> None:
        self.model.student.load_state_dict(checkpoint["model"], strict=False)


class Pair(nn.Module):
    """A student, and a teacher that follows it."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.student, self.teacher = build_model(cfg), build_model(cfg)


def test_a_checkpointer_of_a_student_may_leave_the_teacher(
    yacs: Yacs, saved: Saved, tmp_path: Path
) -> None:
    _, path = saved("resnet18")
    DetectionCheckpointer(build_model(yacs(*TIMM)), str(tmp_path)).save("detector")
    pair = Pair(yacs(*TIMM))
    StudentCheckpointer(pair).load(str(tmp_path / "detector.pth"))
    assert pair.student.backbone.bottom_up.network.is_loaded
    assert not pair.teacher.backbone.bottom_up.network.is_loaded
    # Where nothing was filled, the student has no weights either.
    with pytest.raises(CheckpointError, match="train from scratch"):
        StudentCheckpointer(Pair(yacs(*TIMM))).load(str(path))
    with pytest.raises(CheckpointError, match="train from scratch"):
        DetectionCheckpointer(Pair(yacs(*TIMM))).load(str(tmp_path / "detector.pth"))


def test_a_backbone_that_was_filled_by_hand_is_marked(yacs: Yacs, tmp_path: Path) -> None:
    heads = {"model": {"roi_heads.box_head.fc1.bias": torch.ones(32)}}
    torch.save(heads, tmp_path / "heads.pth")
    model, source = build_model(yacs(*TIMM)), random_network("resnet18")
    network = model.backbone.bottom_up.network
    for key, value in network.adapt(source.state_dict()).items():
        network.state_dict()[key].copy_(value)
    with pytest.raises(CheckpointError, match="mark_loaded"):
        DetectionCheckpointer(model).load(str(tmp_path / "heads.pth"))
    d2_ext.mark_loaded(model)
    DetectionCheckpointer(model).load(str(tmp_path / "heads.pth"))
    # What is loaded by PyTorch's own means needs no mark.
    filled = build_model(yacs(*TIMM))
    filled.backbone.bottom_up.network.features.load_state_dict(network.features.state_dict())
    DetectionCheckpointer(filled).load(str(tmp_path / "heads.pth"))
    with pytest.raises(BackboneError):
        d2_ext.mark_loaded(build_model(yacs(*NATIVE)))
