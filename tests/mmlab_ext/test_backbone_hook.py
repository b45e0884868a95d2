"""The hook that loads backbones, in the Runner with everything that runs beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn

import mmlab_ext  # noqa: F401  registers
from dr_plugins.errors import BackboneError, CheckpointError
from mmlab_ext import ConfigError, TimmDataPreprocessor
from mmlab_ext.hooks.backbone import _check_channels

pytest.importorskip("mmdet", reason="MMDetection is not installed")
import mmdet.models  # noqa: F401  registers its ResNet

Builder = Callable[..., Any]
Saved = tuple[dict[str, torch.Tensor], str]  # a checkpoint and its path
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@MODELS.register_module()
class TinyDetector(BaseModel):
    """A backbone, and no more of a detector than the Runner needs."""

    def __init__(self, backbone: Any, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.backbone = MODELS.build(backbone)

    def forward(self, inputs: torch.Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        features = self.backbone(inputs)
        return {"loss": sum(f.square().mean() for f in features)} if mode == "loss" else features


@MODELS.register_module()
class TinyHeadless(BaseModel):
    """A model whose backbone has another name."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 1, 1)

    def forward(self, inputs: Any, mode: str = "tensor") -> Any:
        return {"loss": self.encoder(torch.stack(inputs).float()).mean()}


@DATASETS.register_module()
class TinyImages:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)
        return {"inputs": image}


class AtFirstStep(Hook):
    """Keeps the backbone's state as the first step meets it, and then that of each epoch's end."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.state: dict[str, torch.Tensor] = {}
        self.epochs: list[int] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.epochs.append(runner.epoch)
        if not self.state:
            model = getattr(runner.model, "module", runner.model)
            self.state = {k: v.clone() for k, v in model.backbone.state_dict().items()}


def config_of(checkpoint: str, **backbone: Any) -> dict[str, Any]:
    return {
        "custom_imports": {"imports": ["mmlab_ext"]},
        "model": {
            "type": "TinyDetector",
            "backbone": {"type": "mmdet.ResNet", "depth": 18, "norm_eval": False, **backbone},
            "data_preprocessor": {
                "type": "ImgDataPreprocessor",
                "mean": MEAN,
                "std": STD,
                "bgr_to_rgb": True,
            },
        },
        "train_dataloader": {
            "batch_size": 2,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": {"type": "TinyImages"},
        },
        "train_cfg": {"by_epoch": True, "max_epochs": 2},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01}},
        "custom_hooks": [{"type": "ReinforcedBackboneHook", "checkpoint": checkpoint}],
        "default_scope": "mmdet",
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
    }


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    torch.manual_seed(11)
    network = timm.create_model("resnet18", num_classes=5)
    path = tmp_path_factory.mktemp("checkpoint") / "resnet18.pt"
    torch.save(network.state_dict(), path)
    return dict(network.state_dict()), str(path)


def train(runner: Any) -> AtFirstStep:
    seen = AtFirstStep()
    runner.register_hook(seen)
    runner.train()
    return seen


def without_head(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def assert_equal(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in got.items())


def test_the_first_step_meets_the_checkpoint(
    resnet18: Saved, build_runner: Builder, tmp_path: Path
) -> None:
    state, path = resnet18
    # The backbone's init_cfg runs before, and does not win.
    config = config_of(path, init_cfg={"type": "Kaiming", "layer": "Conv2d"})
    runner = build_runner(config)
    seen = train(runner)
    assert_equal(seen.state, without_head(state))
    (log,) = (tmp_path / "work").glob("*/*.log")
    line = "model.backbone is resnet18 from "
    assert line in log.read_text()
    # All tensors of the model's backbone, and not of the file, whose classifier has two more.
    count = len(runner.model.backbone.state_dict())
    assert f": {count} tensors loaded and compared, 2 of the checkpoint's" in log.read_text()


def test_timm_features_get_theirs(build_runner: Builder, tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=5)
    path = tmp_path / "network.pt"
    torch.save(network.state_dict(), path)
    config = config_of(f"imagenet-plus://{path}?source=timm&arch=test_resnet")
    config["model"]["backbone"] = {"type": "TimmFeatures", "model": "test_resnet"}
    convention = MODELS.build(config["model"]["backbone"]).convention
    mean, std = convention.for_range(255)
    config["model"]["data_preprocessor"].update(mean=list(mean), std=list(std))
    seen = train(build_runner(config))
    source = network.state_dict()
    assert len(seen.state) > 50
    for key, value in seen.state.items():
        assert torch.equal(value, source[key.removeprefix("body.features.")])


def test_averaged_weights_begin_at_the_checkpoint(resnet18: Saved, build_runner: Builder) -> None:
    state, path = resnet18
    config = config_of(path)
    config["custom_hooks"].append({"type": "EMAHook", "momentum": 0.25})
    config["train_cfg"]["max_epochs"] = 1
    runner = build_runner(config)

    class Steps(Hook):
        def __init__(self) -> None:
            self.states: list[torch.Tensor] = []

        def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
            self.states.append(runner.model.backbone.conv1.weight.detach().clone())

    steps = Steps()
    runner.register_hook(steps, priority="VERY_HIGH")
    train(runner)
    hook = next(h for h in runner.hooks if type(h).__name__ == "EMAHook")
    averaged = hook.ema_model.module.backbone.conv1.weight
    # MMEngine's average starts as a copy after the first step.
    torch.testing.assert_close(averaged, steps.states[0] * 0.75 + steps.states[1] * 0.25)
    assert (averaged - state["conv1.weight"]).abs().max() < 0.05


def test_a_resumed_run_keeps_what_it_learned(
    resnet18: Saved, build_runner: Builder, tmp_path: Path
) -> None:
    _, path = resnet18
    config = config_of(path)
    first = build_runner({**config, "train_cfg": {"by_epoch": True, "max_epochs": 1}})
    train(first)
    learned = {k: v.clone() for k, v in first.model.backbone.state_dict().items()}
    seen = train(build_runner(config, resume=True))
    assert seen.epochs == [1, 1]
    assert_equal(seen.state, learned)


def test_a_resume_without_anything_to_resume_loads(resnet18: Saved, build_runner: Builder) -> None:
    state, path = resnet18
    seen = train(build_runner(config_of(path), resume=True))
    assert seen.epochs == [0, 0, 1, 1]
    assert_equal(seen.state, without_head(state))


def test_load_from_contradicts_the_hook(
    resnet18: Saved, build_runner: Builder, tmp_path: Path
) -> None:
    _, path = resnet18
    config = config_of(path)
    train(build_runner(config))
    whole = str(tmp_path / "work" / "epoch_1.pth")
    with pytest.raises(ConfigError, match=r"load_from .* remove one of the two"):
        train(build_runner(config, load_from=whole))


@pytest.mark.parametrize(
    ("backbone", "error", "message"),
    [
        (
            {"depth": 34},
            CheckpointError,
            r"Hook\.checkpoint: .*holds resnet18.*backbone is resnet34",
        ),
        ({"style": "caffe"}, BackboneError, r"Hook\.checkpoint: style is 'caffe'"),
        (
            {"type": "TimmClassifier", "model": "resnet18", "_delete_": True},
            ConfigError,
            r"model\.backbone\.type is TimmClassifier.*TimmFeatures",
        ),
    ],
)
def test_backbones_that_do_not_fit(
    resnet18: Saved,
    build_runner: Builder,
    backbone: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    config = config_of(resnet18[1])
    with pytest.raises(error, match=message):
        train(build_runner(config, **{"model.backbone": backbone}))


@pytest.mark.parametrize(
    ("preprocessor", "message"),
    [
        ({"mean": [0.0, 0.0, 0.0]}, r"mean \[0\.0, 0\.0, 0\.0\].*mean \[123\.675"),
        ({"bgr_to_rgb": False}, r"model\.data_preprocessor \(with bgr_to_rgb=False\) feeds BGR"),
        (
            {"bgr_to_rgb": False, "type": "mmseg.SegDataPreProcessor", "size": (64, 64)},
            r"model\.data_preprocessor \(with bgr_to_rgb=False\) feeds BGR",
        ),
        ({"_delete_": True, "type": "BaseDataPreprocessor"}, r"does not normalise.*123\.675"),
    ],
)
def test_other_images_than_it_was_trained_on(
    resnet18: Saved, build_runner: Builder, preprocessor: dict[str, Any], message: str
) -> None:
    config = config_of(resnet18[1])
    runner = build_runner(config, **{"model.data_preprocessor": preprocessor})
    with pytest.raises((CheckpointError, ConfigError), match=message):
        train(runner)


def test_the_check_of_images_can_be_switched_off(resnet18: Saved, build_runner: Builder) -> None:
    config = config_of(resnet18[1])
    config["custom_hooks"][0]["check_inputs"] = False
    config["model"]["data_preprocessor"]["mean"] = [0.0, 0.0, 0.0]
    seen = train(build_runner(config))
    assert_equal(seen.state, without_head(resnet18[0]))


def test_a_model_without_backbone(resnet18: Saved, build_runner: Builder) -> None:
    config = {**config_of(resnet18[1]), "model": {"type": "TinyHeadless"}}
    with pytest.raises(ConfigError, match=r"model\.type is TinyHeadless, which has no backbone"):
        train(build_runner(config))


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ({"source": "mmcls"}, r"'mmcls'.*auto, cvnets, timm"),
        ({"checkpoint": "imagenet-plus://x?arc=y"}, r"arc=y .*arch=NAME"),
    ],
)
def test_settings_of_the_hook(
    resnet18: Saved, build_runner: Builder, hook: dict[str, str], message: str
) -> None:
    config = config_of(resnet18[1])
    config["custom_hooks"][0].update(hook)
    with pytest.raises(ConfigError, match=f"ReinforcedBackboneHook: .*{message}"):
        build_runner(config)


def test_a_missing_file(build_runner: Builder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Hook\.checkpoint: cannot read .*none\.pt"):
        train(build_runner(config_of(str(tmp_path / "none.pt"))))


def test_a_wrapped_model_gets_its_backbone(
    resnet18: Saved, build_runner: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, path = resnet18
    config = config_of(path)
    config["launcher"] = "pytorch"
    config["model_wrapper_cfg"] = {
        "type": "MMDistributedDataParallel",
        "device_ids": None,
        "find_unused_parameters": False,
    }
    # The last two are what MMEngine sets for all that comes after.
    for name, value in (("LOCAL_RANK", "0"), ("OMP_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        runner = build_runner(config)
        seen = train(runner)
    finally:
        torch.distributed.destroy_process_group()
    assert type(runner.model).__name__ == "MMDistributedDataParallel"
    assert_equal(seen.state, without_head(state))


def test_images_decoded_to_bgr_are_not_for_a_preprocessor_that_keeps_channels() -> None:
    class LoadImageFromFile:
        pass

    dataset = SimpleNamespace(pipeline=SimpleNamespace(transforms=[LoadImageFromFile()]))
    ours = TimmDataPreprocessor(mean=[0.0] * 3, std=[1.0] * 3)
    timm_like, other = (SimpleNamespace(data_preprocessor=each) for each in (ours, None))
    with pytest.raises(ConfigError, match="BGR, which TimmDataPreprocessor takes for RGB"):
        _check_channels(timm_like, dataset)
    _check_channels(other, dataset)
    _check_channels(timm_like, SimpleNamespace())
