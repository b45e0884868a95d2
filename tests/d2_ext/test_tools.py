"""Detectron2's own tools, unmodified, with the example configurations."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

import detectron2

from tests.d2_ext.coloured import make_coloured, make_coloured_set
from tests.d2_ext.conftest import SMALL
from tests.dr_models.checkpoints.networks import cvnets_state
from tests.forked import run_python

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "detectron2"
TOOLS = Path(
    os.environ.get("DETECTRON2_TOOLS") or Path(detectron2.__file__).resolve().parents[1] / "tools"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (TOOLS / "train_net.py").is_file(),
        reason="Detectron2's tools are absent; DETECTRON2_TOOLS names their folder",
    ),
]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(labelme: Path) -> Run:
    environment = {
        "DETECTRON2_ENV_MODULE": "d2_ext",
        "COCO_FOLDER": str(labelme / "data_dataset_coco"),
    }

    def run(tool: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
        return run_python(["-m", "tests.d2_ext.run_tool", tool, *arguments], environment)

    return run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 as ml-dr publishes its networks."""
    path = tmp_path_factory.mktemp("published") / "resnet18.pt"
    torch.save(cvnets_state("resnet_18"), path)
    return path


def small(output: Path, address: str, *options: Any) -> list[str]:
    own = {"MODEL.WEIGHTS", "INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"}
    pairs = [pair for pair in zip(SMALL[::2], SMALL[1::2], strict=True) if pair[0] not in own]
    pairs += [("OUTPUT_DIR", output), ("MODEL.WEIGHTS", address), ("TEST.EVAL_PERIOD", 0)]
    pairs += list(zip(options[::2], options[1::2], strict=True))
    return [str(value) for pair in pairs for value in pair]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_train_net(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    address = f"imagenet-plus://{checkpoint}?source=cvnets&arch=resnet18"
    config = ("--config-file", EXAMPLES / "mask_rcnn_cvnets_R_50_FPN_1x.yaml")
    options = small(tmp_path, address, "MODEL.DR_TIMM.NAME", "cvnets_resnet18")
    done = run(TOOLS / "train_net.py", *config, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loaded resnet_18 into backbone.bottom_up" in done.stdout
    assert "bbox/AP" in metrics(tmp_path)[-1]
    done = run(TOOLS / "train_net.py", *config, "--resume", *options, "SOLVER.MAX_ITER", 3)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Starting training from iteration 2" in done.stdout


def test_train_net_stops_before_it_trains_from_scratch(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    config = ("--config-file", EXAMPLES / "mask_rcnn_cvnets_R_50_FPN_1x.yaml")
    options = small(tmp_path, str(checkpoint), "MODEL.DR_TIMM.NAME", "cvnets_resnet18")
    done = run(TOOLS / "train_net.py", *config, *options)
    assert done.returncode != 0
    assert "write imagenet-plus://" in done.stderr
    assert "Starting training" not in done.stdout


def test_plain_train_net(run: Run, tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    native = ("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
    done = run(
        TOOLS / "plain_train_net.py",
        *("--config-file", EXAMPLES / "mask_rcnn_R_50_FPN_1x.yaml"),
        *small(tmp_path / "run", f"imagenet-plus://{tmp_path}/resnet18.pth", *native),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loaded resnet18 into backbone.bottom_up" in done.stdout


LAZY = """
from detectron2.config import LazyConfig
_cfg = LazyConfig.load({example!r})
dataloader, lr_multiplier, model = _cfg.dataloader, _cfg.lr_multiplier, _cfg.model
optimizer, train = _cfg.optimizer, _cfg.train
for _split in (dataloader.train, dataloader.test):
    _split.num_workers = 0
    _split.dataset.names = "labelme"
    _split.mapper.augmentations[0].short_edge_length = 96
model.roi_heads.num_classes = 21
model.roi_heads.batch_size_per_image = 16
model.proposal_generator.post_nms_topk = (32, 16)
model.backbone.bottom_up.model = "cvnets_resnet18"
dataloader.train.total_batch_size = 2
train.device = "cpu"
train.max_iter = 2
lr_multiplier.warmup_length = 0.5
"""
VIT = """
model.backbone.net.model = "cvnets_vit_tiny_patch16_224"
model.backbone.net.norm = ""
train.amp.enabled = False
dataloader.train.mapper.augmentations = [dataloader.test.mapper.augmentations[0]]
"""


def test_lazyconfig_train_net(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    config = tmp_path / "small.py"
    config.write_text(LAZY.format(example=str(EXAMPLES / "mask_rcnn_R_50_FPN_3x.py")))
    address = f"imagenet-plus://{checkpoint}?source=cvnets&arch=resnet18"
    options = (f"train.output_dir={tmp_path}/run", f"train.init_checkpoint='{address}'")
    tool = TOOLS / "lazyconfig_train_net.py"
    done = run(tool, "--config-file", config, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loaded resnet_18 into backbone.bottom_up" in done.stdout
    assert "bbox/AP" in metrics(tmp_path / "run")[-1]


@pytest.mark.parametrize(
    ("name", "arch", "place"),
    [
        ("mask_rcnn_swin_T_FPN_3x.py", "swin_tiny", "bottom_up"),
        ("mask_rcnn_vit_B_FPN_100ep_LSJ.py", "vit_tiny", "net"),
    ],
)
def test_transformers(name: str, arch: str, place: str, run: Run, tmp_path: Path) -> None:
    torch.save(cvnets_state(arch), tmp_path / "published.pt")
    network = "" if arch == "swin_tiny" else VIT
    config = tmp_path / "small.py"
    text = LAZY.format(example=str(EXAMPLES / name))
    config.write_text(text.replace('model.backbone.bottom_up.model = "cvnets_resnet18"', network))
    address = f"imagenet-plus://{tmp_path}/published.pt?source=cvnets&arch={arch}"
    options = (f"train.output_dir={tmp_path}/run", f"train.init_checkpoint='{address}'")
    done = run(TOOLS / "lazyconfig_train_net.py", "--config-file", config, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"loaded {arch} into backbone.{place}" in done.stdout
    assert "bbox/AP" in metrics(tmp_path / "run")[-1]


def test_pretraining_and_resuming(run: Run, tmp_path: Path) -> None:
    images = make_coloured(tmp_path / "train", 6)
    shards = make_coloured_set(tmp_path / "set", images)
    options = [
        *("train.device=cpu", "train.amp.enabled=False", "train.log_period=1"),
        *("train.checkpointer.period=2", "model.model=resnet18", "model.num_classes=3"),
        *(f"dataloader.train.images={images}", f"dataloader.train.shards={shards}"),
        *(f"dataloader.test.images={images}", "dataloader.test.size=32"),
        *("dataloader.train.total_batch_size=6", "dataloader.train.num_workers=0"),
        *("dataloader.test.num_workers=0", f"train.output_dir={tmp_path}/run"),
    ]
    tool, config = TOOLS / "lazyconfig_train_net.py", EXAMPLES / "pretrain_R_50.py"
    for flags, last in ((["train.max_iter=2"], 2), (["--resume", "train.max_iter=4"], 4)):
        done = run(tool, "--config-file", config, *flags, *options)
        assert done.returncode == 0, done.stderr[-3000:]
        rows = metrics(tmp_path / "run")
        assert rows[-1]["iteration"] == last
        assert "classification/top1" in rows[-1]
    assert "Starting training from iteration 2" in done.stdout


def test_yacs_pretraining(run: Run, tmp_path: Path) -> None:
    images = make_coloured(tmp_path / "train", 6)
    shards = make_coloured_set(tmp_path / "set", images)
    done = run(
        EXAMPLES / "pretrain_net.py",
        *("--config-file", EXAMPLES / "pretrain_R_50.yaml", "MODEL.DEVICE", "cpu"),
        *("MODEL.DR_TIMM.NAME", "resnet18", "MODEL.DR_TIMM.NUM_CLASSES", 3, "SOLVER.MAX_ITER", 2),
        *("DATASETS.TRAIN", f"('{images}',)", "DATASETS.TEST", f"('{images}',)"),
        *("REINFORCED.SHARDS", shards, "SOLVER.IMS_PER_BATCH", 6, "SOLVER.AMP.ENABLED", False),
        *("DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "classification/top1" in metrics(tmp_path / "run")[-1]
