"""`use_checkpoint`: an address that loads, and the images that the checkpoint expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone, build_model
from detectron2.utils.file_io import PathHandler, PathManager
from omegaconf import OmegaConf
from torch import nn

import d2_ext
from d2_ext import TimmBackbone, use_checkpoint
from dr_plugins.errors import CheckpointError
from tests.d2_ext.conftest import MEAN, NATIVE, STD, TIMM, Saved, Yacs

LAZY = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"


class Download(PathHandler):
    """What `PathManager` has for the internet, with a folder in its place."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _get_supported_prefixes(self) -> list[str]:
        return ["https://"]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        return str(self.folder / path.rpartition("/")[2])


FORMS = [
    "imagenet-plus://{path}?source=timm&arch=resnet18",
    "{path}",
    "~/{name}",
    "./{name}",
    "https://example.org/{name}",
    "imagenet-plus://https://example.org/{name}",
    Path,
]


@pytest.mark.parametrize(
    ("form", "options"), [*((form, TIMM) for form in FORMS), ("{name}", NATIVE)], ids=str
)
def test_every_form_of_an_address_loads(
    form: str | type[Path],
    options: tuple[Any, ...],
    yacs: Yacs,
    saved: Saved,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, path = saved("resnet18")
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.chdir(path.parent)
    handlers = PathManager._path_handlers
    monkeypatch.setattr(PathManager, "_path_handlers", handlers.copy())
    PathManager.register_handler(Download(path.parent), allow_override=True)
    default = get_cfg()
    assert default.INPUT.FORMAT == "BGR"
    cfg = yacs(*options, "INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", default.MODEL.PIXEL_MEAN)
    address = form.format(path=path, name=path.name) if isinstance(form, str) else path
    convention = use_checkpoint(cfg, address)
    assert convention.for_range(255) == (pytest.approx(MEAN), pytest.approx(STD))
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT) == (MEAN, STD, "RGB")
    backbone = build_backbone(cfg)
    DetectionCheckpointer(backbone).load(cfg.MODEL.WEIGHTS)
    expected = network.layer4[1].conv2.weight
    assert any(
        value.shape == expected.shape and torch.equal(value, expected)
        for value in backbone.bottom_up.parameters()
    )


def lazy() -> Any:
    cfg = model_zoo.get_config(LAZY)
    cfg.model.backbone.bottom_up = LazyCall(TimmBackbone)(
        model="resnet18", out_features=["res2", "res3", "res4", "res5"]
    )
    return cfg


@pytest.mark.parametrize("kind", [str, Path])
def test_lazy_configurations(kind: type, saved: Saved) -> None:
    _, path = saved("resnet18")
    cfg = lazy()
    use_checkpoint(cfg, kind(path))
    assert cfg.train.init_checkpoint == f"imagenet-plus://{path}"
    assert (list(cfg.model.pixel_mean), list(cfg.model.pixel_std)) == (MEAN, STD)
    assert cfg.model.input_format == "RGB"
    assert cfg.dataloader.train.mapper.image_format == "RGB"
    assert cfg.dataloader.test.mapper.image_format == "RGB"


class Pair(nn.Module):
    """A model around two detectors."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher


def test_lazy_configurations_of_two_models(saved: Saved) -> None:
    """The images are normalised where a detector is, which may not be the outermost model."""
    _, path = saved("resnet18")
    cfg = lazy()
    cfg.model = LazyCall(Pair)(student=cfg.model, teacher=cfg.model)
    use_checkpoint(cfg, path)
    assert "pixel_mean" not in cfg.model
    for name in ("student", "teacher"):
        assert list(cfg.model[name].pixel_mean) == MEAN
        assert cfg.model[name].input_format == "RGB"


@pytest.mark.parametrize(
    "address",
    [
        "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
        "catalog://ImageNetPretrained/MSRA/R-50",
        "no/such/file.pth",
        "",
    ],
)
def test_what_does_not_load_is_refused_and_nothing_is_set(address: str, yacs: Yacs) -> None:
    cfg = yacs(*NATIVE)
    before = cfg.dump()
    with pytest.raises(CheckpointError):
        use_checkpoint(cfg, address)
    assert cfg.dump() == before


class Transformer(Backbone):
    """Of none of the kinds that checkpoints are loaded into."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}


def test_what_the_configuration_builds_decides(yacs: Yacs, saved: Saved, monkeypatch: Any) -> None:
    """Not the name of the backbone."""
    (_, path), (_, plain) = saved("mobilenetv3_small_050"), saved("resnet18")
    monkeypatch.setattr(BACKBONE_REGISTRY, "_obj_map", dict(BACKBONE_REGISTRY))

    def my_backbone(cfg: Any, input_shape: Any) -> Any:
        return TimmBackbone("mobilenetv3_small_050")

    def not_a_timm_backbone(cfg: Any, input_shape: Any) -> Any:
        return BACKBONE_REGISTRY.get("build_resnet_backbone")(cfg, input_shape)

    def my_transformer(cfg: Any, input_shape: Any) -> Any:
        torch.linspace(0, 0.1, 3)[1].item()  # as stochastic depth is set up
        return Transformer()

    for builder in (my_backbone, not_a_timm_backbone, my_transformer):
        BACKBONE_REGISTRY.register(builder)
    state = torch.random.get_rng_state()
    cfg = yacs("MODEL.BACKBONE.NAME", "my_backbone")
    use_checkpoint(cfg, path)
    assert f"imagenet-plus://{path}" == cfg.MODEL.WEIGHTS
    use_checkpoint(yacs(*NATIVE, "MODEL.BACKBONE.NAME", "not_a_timm_backbone"), plain)
    with pytest.raises(CheckpointError, match="is a Transformer"):
        use_checkpoint(yacs("MODEL.BACKBONE.NAME", "my_transformer"), plain)
    assert torch.equal(state, torch.random.get_rng_state())


def test_classifiers(yacs: Yacs, saved: Saved) -> None:
    _, path = saved("resnet18", num_classes=5)
    meta = ("MODEL.META_ARCHITECTURE", "ReinforcedClassifier", "MODEL.DR_TIMM.NAME", "resnet18")
    cfg = yacs(*meta, "MODEL.DR_TIMM.NUM_CLASSES", 5, "MODEL.PIXEL_MEAN", MEAN)
    use_checkpoint(cfg, path)
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    assert model.load_record.is_complete


@pytest.mark.parametrize("config", [{}, OmegaConf.create({"model": {}}), None])
def test_a_configuration_is_needed(config: Any) -> None:
    with pytest.raises(d2_ext.ConfigError, match="CfgNode"):
        use_checkpoint(config, "imagenet-plus://x")
