"""Images that a pipeline has normalised already, wherever in it that happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.model import BaseTTAModel
from mmengine.registry import DATASETS, MODELS, TRANSFORMS

import mmlab_ext  # noqa: F401  registers
from mmlab_ext import ConfigError
from mmlab_ext.pipelines import decodes_to_bgr, refuse_normalised, refuse_normalising

pytest.importorskip("mmdet", reason="MMDetection is not installed")
import mmdet.datasets  # registers

from tests.mmlab_ext.test_backbone_hook import MEAN, STD, train
from tests.mmlab_ext.test_backbones import saved
from tests.mmlab_ext.test_parts import short

Builder = Callable[..., Any]
NORMALIZE = {"type": "Normalize", "mean": MEAN, "std": STD, "to_rgb": True}


@TRANSFORMS.register_module(force=True)
class TinyImage:
    """In the place of one that reads a file."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        return {**results, "img": noise}


@TRANSFORMS.register_module(force=True)
class TinyScale:
    """Scales as some transforms do, under a name that says nothing of it."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return {**results, "img": results["img"].astype(np.float32) / 255}


@TRANSFORMS.register_module(force=True)
class TinyPack:
    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        image = np.ascontiguousarray(results["img"].transpose(2, 0, 1))
        return {"inputs": torch.from_numpy(image)}


@DATASETS.register_module(force=True)
class TinyListed(BaseDataset):
    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"img_path": str(index)} for index in range(4)]


def listed(*extra: dict[str, Any]) -> dict[str, Any]:
    return {"type": "TinyListed", "pipeline": [{"type": "TinyImage"}, *extra, {"type": "TinyPack"}]}


def wrapped(kind: str, **extra: Any) -> dict[str, Any]:
    return {"type": kind, "dataset": listed(NORMALIZE), **extra}


NESTED = {
    "plain": listed(NORMALIZE),
    "repeated": wrapped("RepeatDataset", times=2),
    "joined": {"type": "ConcatDataset", "datasets": [listed(), listed(NORMALIZE)]},
    "twice": {
        "type": "RepeatDataset",
        "times": 2,
        "dataset": wrapped("RepeatDataset", times=1),
    },
    "mixed": {
        "type": "mmdet.MultiImageMixDataset",
        "dataset": {"type": "TinyListed", "pipeline": [{"type": "TinyImage"}]},
        "pipeline": [NORMALIZE, {"type": "TinyPack"}],
    },
    "by chance": listed({"type": "RandomApply", "transforms": [NORMALIZE], "prob": 0.0}),
    "one of": listed({"type": "RandomChoice", "transforms": [[NORMALIZE]]}),
    "broadcast": listed(
        {
            "type": "TransformBroadcaster",
            "mapping": {"img": ["img", "img"]},
            "auto_remap": True,
            "transforms": [NORMALIZE],
        }
    ),
    "branches": listed(
        {
            "type": "mmdet.MultiBranch",
            "branch_field": ["a"],
            "a": {"type": "Normalize", **NORMALIZE},
        }
    ),
    "for tests": listed({"type": "TestTimeAug", "transforms": [[NORMALIZE]]}),
}


@pytest.fixture(params=NESTED.values(), ids=NESTED.keys())
def nested(request: pytest.FixtureRequest) -> Any:
    return mmdet.registry.DATASETS.build(request.param)


def test_a_normalising_transform_is_found_wherever_it_is(nested: Any) -> None:
    with pytest.raises(ConfigError, match=r"val_dataloader\.dataset has Normalize"):
        refuse_normalising(nested, "val_dataloader.dataset")


def test_other_transforms_are_no_reason() -> None:
    dataset = DATASETS.build(listed())
    refuse_normalising(dataset, "train_dataloader.dataset")
    assert not decodes_to_bgr(dataset)


def test_decoding_is_found_inside_of_wrappers() -> None:
    dataset = mmdet.registry.DATASETS.build(
        {"type": "RepeatDataset", "times": 2, "dataset": listed({"type": "LoadImageFromFile"})}
    )
    assert decodes_to_bgr(dataset)


@pytest.mark.parametrize(
    ("pixel", "refused"),
    [
        (lambda image: image, False),
        (lambda image: image.float(), False),
        (lambda image: image.float() * 1.2 - 32, False),
        (lambda image: image.float() * 0, False),
        (lambda image: image.float() / 255, True),
        (lambda image: (image.float() - 120) / 58, True),
        (lambda image: image.float() / 127.5 - 1, True),
        (lambda image: image.float() - 110, True),
    ],
)
@pytest.mark.parametrize("nest", [lambda x: x, lambda x: [x], lambda x: {"a": [None, x]}])
def test_values_show_what_was_done_to_images(
    pixel: Callable[[Any], Any], refused: bool, nest: Callable[[Any], Any]
) -> None:
    image = torch.arange(256, dtype=torch.uint8).expand(3, 2, 256)
    if refused:
        with pytest.raises(ConfigError, match=r"^here gives images from"):
            refuse_normalised(nest(pixel(image)), "here")
    else:
        refuse_normalised(nest(pixel(image)), "here")


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("step", [NORMALIZE, {"type": "TinyScale"}])
def test_no_run_normalises_twice(
    part: str, step: dict[str, Any], build_runner: Builder, tmp_path: Path
) -> None:
    _, path = saved("resnet18", tmp_path)
    config = short(path)
    config["default_scope"] = "mmengine"
    config["custom_imports"]["imports"].append("mmcv.transforms")
    config["model"]["type"] = "TinyDetector"
    loader = {**config["train_dataloader"], "dataset": listed()}
    config.update(
        train_dataloader=loader,
        val_dataloader=loader,
        val_cfg={},
        val_evaluator={"type": "DumpResults", "out_file_path": str(tmp_path / "out.pkl")},
    )
    config[f"{part}_dataloader"] = {**loader, "dataset": listed(step)}
    with pytest.raises(ConfigError, match=rf"{part}_dataloader\.dataset"):
        train(build_runner(config))


def test_a_pipeline_may_normalise_instead_of_the_model(
    build_runner: Builder, tmp_path: Path
) -> None:
    _, path = saved("resnet18", tmp_path)
    config = short(path)
    config["default_scope"] = "mmengine"
    config["custom_imports"]["imports"].append("mmcv.transforms")
    config["train_dataloader"]["dataset"] = listed(NORMALIZE)
    config["custom_hooks"][0]["check_inputs"] = False
    train(build_runner(config))


@pytest.mark.parametrize("step", [NORMALIZE, {"type": "TinyScale"}])
@pytest.mark.parametrize("run", ["val", "test", "several views"])
def test_no_evaluation_normalises_twice(
    step: dict[str, Any], run: str, build_runner: Builder, tmp_path: Path
) -> None:
    config = short("resnet18.pt")
    part = "val" if run == "val" else "test"
    loader = {**config.pop("train_dataloader"), "dataset": listed(step)}
    del config["train_cfg"], config["optim_wrapper"]
    config["default_scope"] = "mmengine"
    config["custom_imports"]["imports"].append("mmcv.transforms")
    config.update(
        {
            f"{part}_dataloader": loader,
            f"{part}_cfg": {},
            f"{part}_evaluator": {
                "type": "DumpResults",
                "out_file_path": str(tmp_path / "out.pkl"),
            },
        }
    )
    if run == "several views":
        config["model"] = {"type": "TinyViews", "module": config["model"]}
    runner = build_runner(config)
    with pytest.raises(ConfigError, match=rf"{part}_dataloader\.dataset"):
        getattr(runner, part)()


@MODELS.register_module(force=True)
class TinyViews(BaseTTAModel):
    """Averages what a model answers to several views of an image."""

    def merge_preds(self, data_samples_list: Any) -> Any:
        return data_samples_list
