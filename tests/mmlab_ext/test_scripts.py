"""Whole runs in separate processes: the frameworks' scripts, resuming, two processes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torchvision.datasets import ImageFolder

import dr_plugins
from dr_plugins.replay.replayer import fingerprint
from tests.forked import run_python
from tests.mmlab_ext import small

Builder = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "tests" / "mmlab_ext" / "driver.py"
PRETRAIN = ROOT / "examples" / "mmlab" / "train.py"


def host_script(host: str) -> Path:
    """The framework's own tools/train.py, as its wheel ships it."""
    spec = importlib.util.find_spec(host)
    if spec is None or spec.origin is None:
        pytest.skip(f"{host} is not installed")
    path = Path(spec.origin).parent / ".mim" / "tools" / "train.py"
    assert path.exists()
    return path


def run(*arguments: Any, processes: int = 1) -> str:
    environment = {"CUDA_VISIBLE_DEVICES": "", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    if processes == 1:
        result = run_python([DRIVER, *arguments], environment)
    else:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        result = subprocess.run(
            [sys.executable, "-m", *launcher, str(DRIVER), *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-4000:]
    return output


def scalars(work: Path) -> list[dict[str, Any]]:
    """What the Runner logged, over all runs in this folder."""
    lines = []
    for path in sorted(work.glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    return lines


def last_state(work: Path) -> dict[str, torch.Tensor]:
    path = Path((work / "last_checkpoint").read_text())
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=False)["state_dict"]
    return state


@pytest.mark.slow
def test_mask_rcnn_with_mmdetections_own_script(labelme: Path, tmp_path: Path) -> None:
    config = small.detection("mask-rcnn_r50_fpn_1x_coco.py", labelme, tmp_path)
    script, path, work = host_script("mmdet"), tmp_path / "config.py", tmp_path / "work"
    config.train_cfg.update(max_epochs=1, val_interval=1)
    config.dump(path)
    first = run(script, path)
    assert "ReinforcedBackboneHook: model.backbone is resnet50 from" in first
    second = run(script, path, "--resume", "--cfg-options", "train_cfg.max_epochs=2")
    assert "training is resumed, nothing was loaded" in second
    assert "model.backbone is" not in second
    metrics = [line for line in scalars(work) if "coco/bbox_mAP" in line]
    assert len(metrics) == 2
    assert all(0 <= line[f"coco/{kind}_mAP"] <= 1 for line in metrics for kind in ("bbox", "segm"))
    source = torch.load(tmp_path / "resnet50.pt")
    state = last_state(work)
    # The base config freezes stem and first stage, and all statistics.
    for key, value in source.items():
        if key.startswith(("conv1", "bn1", "layer1")) or "running" in key:
            assert torch.equal(state[f"backbone.{key}"], value)
    key = "layer4.2.conv3.weight"
    assert not torch.equal(state[f"backbone.{key}"], source[key])
    torch.testing.assert_close(state[f"backbone.{key}"], source[key], atol=0.05, rtol=0)


@pytest.mark.slow
def test_deeplab_with_mmsegmentations_own_script(labelme: Path, tmp_path: Path) -> None:
    config = small.segmentation("deeplabv3_r50-d8_50e_ade20k-512x512.py", labelme, tmp_path)
    config.train_cfg.update(max_epochs=1, val_interval=1)
    config.dump(tmp_path / "config.py")
    output = run(host_script("mmseg"), tmp_path / "config.py")
    assert "ReinforcedBackboneHook: model.backbone is resnet50 from" in output
    (metrics,) = [line for line in scalars(tmp_path / "work") if "mIoU" in line]
    assert 0 <= metrics["mIoU"] <= 100


@pytest.mark.slow
@pytest.mark.parametrize("host", ["mmdet", "mmengine"])
def test_pretraining_with_scripts(reinforced: Builder, host: str, tmp_path: Path) -> None:
    script = PRETRAIN if host == "mmengine" else host_script(host)
    path = tmp_path / "config.py"
    Config(reinforced(epochs=1)).dump(path)
    run(script, path, "--work-dir", tmp_path / "work")
    run(
        script,
        path,
        "--work-dir",
        tmp_path / "work",
        "--resume",
        "--cfg-options",
        "train_cfg.max_epochs=2",
    )
    lines = [line for line in scalars(tmp_path / "work") if "calibration/ece" in line]
    assert [line["step"] for line in lines] == [1, 2]


@pytest.mark.slow
def test_two_processes_share_the_images_and_the_epoch(
    reinforced: Builder, photographs: Path, shard_sets: Callable[..., Path], tmp_path: Path
) -> None:
    config = reinforced(epochs=2)
    config["custom_imports"]["imports"].append("tests.mmlab_ext.recorder")
    config["custom_hooks"].append({"type": "RecordImages"})
    config["train_dataloader"].update(batch_size=3, num_workers=1, persistent_workers=True)
    config["env_cfg"] = {"dist_cfg": {"backend": "gloo"}}
    # MMEngine gives a GPU to each process, unless told otherwise.
    config["model_wrapper_cfg"] = {"type": "MMDistributedDataParallel", "device_ids": None}
    path = tmp_path / "config.py"
    Config(config).dump(path)

    work = tmp_path / "work"
    run(PRETRAIN, path, "--work-dir", work, "--launcher", "pytorch", processes=2)
    texts = [(work / f"rank{rank}.jsonl").read_text() for rank in (0, 1)]
    records = [[json.loads(line) for line in text.splitlines()] for text in texts]

    core = dr_plugins.ReinforcedDataset(ImageFolder(str(photographs)), shard_sets(), p=0.8)
    position = {key: index for index, key in enumerate(core.source.keys)}
    for epoch in (0, 1):
        core.set_epoch(epoch)
        keys = []
        for rank in (0, 1):
            lines = [line for line in records[rank] if line["epoch"] == epoch]
            assert len(lines) == 2
            assert {line["wrapped"] for line in lines} == {"MMDistributedDataParallel"}
            keys.append([key for line in lines for key in line["keys"]])
            views = [view for line in lines for view in line["views"]]
            expected = [fingerprint(core[position[key]][0]).hex() for key in keys[-1]]
            assert views == expected
        assert set(keys[0]).isdisjoint(keys[1])
        assert sorted(keys[0] + keys[1]) == sorted(position)
    (log,) = work.glob("*/*.log")
    assert "of 12 images reinforced" in log.read_text()
