"""Pretraining a classifier in Detectron2's trainers, and detectors that start from it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import AMPTrainer, DefaultPredictor, DefaultTrainer, TrainerBase
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from d2_ext import (
    ConfigError,
    ReinforcedClassifier,
    ReinforcedTrainer,
    add_dr_plugins_config,
    build_reinforced_train_loader,
    use_checkpoint,
)
from dr_plugins import KDLoss, SparseTargets
from dr_plugins.errors import CheckpointError, DatasetMismatchError
from tests.d2_ext.coloured import SIZE, make_coloured, make_coloured_set
from tests.d2_ext.conftest import MEAN, NATIVE, STD, TIMM, Saved, Yacs
from tests.own_loss import ReverseKL


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_coloured(tmp_path_factory.mktemp("coloured") / "train")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    return make_coloured_set(tmp_path_factory.mktemp("shards") / "set", images)


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_coloured(tmp_path_factory.mktemp("coloured") / "val", per_class=24)


@pytest.fixture
def config(images: Path, shards: Path, validation: Path, tmp_path: Path) -> Callable[..., Any]:
    def get(*options: Any) -> Any:
        cfg = get_cfg()
        add_dr_plugins_config(cfg)
        cfg.merge_from_list(
            [
                *("MODEL.META_ARCHITECTURE", "ReinforcedClassifier", "MODEL.DEVICE", "cpu"),
                *("MODEL.DR_TIMM.NAME", "resnet18", "MODEL.DR_TIMM.NUM_CLASSES", 3),
                *("MODEL.PIXEL_MEAN", MEAN, "MODEL.PIXEL_STD", STD, "INPUT.FORMAT", "RGB"),
                *("DATASETS.TRAIN", (str(images),), "DATASETS.TEST", (str(validation),)),
                *("REINFORCED.SHARDS", str(shards), "DATALOADER.NUM_WORKERS", 0),
                *("SOLVER.IMS_PER_BATCH", 12, "SOLVER.BASE_LR", 0.05, "SOLVER.STEPS", ()),
                *("SOLVER.WARMUP_ITERS", 5, "OUTPUT_DIR", str(tmp_path / "run")),
                *options,
            ]
        )
        return cfg

    return get


def build(cfg: Any) -> ReinforcedTrainer:
    torch.manual_seed(0)
    return ReinforcedTrainer(cfg)


@pytest.mark.slow
def test_a_few_hundred_iterations_learn(config: Callable[..., Any], yacs: Yacs) -> None:
    cfg = config("SOLVER.MAX_ITER", 240, "TEST.EVAL_PERIOD", 120)
    trainer = build(cfg)
    first = ReinforcedTrainer.test(cfg, trainer.model)["classification"]
    trainer.resume_or_load(resume=False)
    trainer.train()
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    accuracies = [value for value, _ in trainer.storage.history("train_top1").values()]
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    assert sum(accuracies[-20:]) / 20 > 75
    found = trainer._last_eval_results["classification"]
    assert found["top1"] > 75 > first["top1"]
    assert 0 <= found["ECE"] < 40

    # The backbone serves detectors, Detectron2's own and this package's.
    path = Path(cfg.OUTPUT_DIR, "model_final.pth")
    trained = trainer.model.model.layer4[1].conv2.weight
    for options in (TIMM, NATIVE):
        model = build_model(yacs(*options))
        DetectionCheckpointer(model).load(f"imagenet-plus://{path}")
        bottom_up = model.backbone.bottom_up
        layer = bottom_up.network.features.layer4 if options is TIMM else bottom_up.res5
        assert torch.equal(layer[1].conv2.weight, trained)
    # So it does the classifier itself, and in evaluation it takes Detectron2's inputs too.
    classifier = build_model(cfg)
    DetectionCheckpointer(classifier).load(f"imagenet-plus://{path}")
    assert torch.equal(classifier.model.fc.weight, trainer.model.model.fc.weight)
    cfg.MODEL.WEIGHTS = str(path)
    view = torch.full((SIZE, SIZE, 3), 90, dtype=torch.uint8)
    view[..., 0] = 40
    view[..., 2] = 200
    cfg.INPUT.MIN_SIZE_TEST = SIZE
    # The predictor takes BGR pixels, as OpenCV reads them: this one is blue.
    answer = DefaultPredictor(cfg)(view.flip(2).numpy())["logits"]
    assert answer.shape == (3,)
    assert answer.argmax() == 2


@pytest.mark.parametrize(("stop", "workers"), [(3, 2), (7, 1)])
def test_resume_reproduces(
    stop: int, workers: int, config: Callable[..., Any], tmp_path: Path
) -> None:
    options = ("DATASETS.TEST", (), "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")
    # Four iterations are an epoch: one stop is within the first, one within the second.
    whole = build(config(*options, "SOLVER.MAX_ITER", 10))
    whole.resume_or_load(resume=False)
    whole.train()

    parts = config(
        *(*options, "SOLVER.MAX_ITER", 10, "SOLVER.CHECKPOINT_PERIOD", stop),
        *("OUTPUT_DIR", str(tmp_path / "parts")),
    )
    first = build(parts)
    first.resume_or_load(resume=False)
    first.max_iter = stop
    first.train()
    assert first.iter == stop
    torch.manual_seed(99)
    parts.DATALOADER.NUM_WORKERS = workers
    second = ReinforcedTrainer(parts)
    second.resume_or_load(resume=True)
    assert second.start_iter == stop
    second.train()
    expected = whole.model.state_dict()
    for key, value in second.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_the_loss_is_that_of_the_stored_answers() -> None:
    assert META_ARCH_REGISTRY.get("ReinforcedClassifier") is ReinforcedClassifier
    torch.manual_seed(0)
    model = ReinforcedClassifier("resnet18", num_classes=4, temperature=2.0).train()
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    targets = SparseTargets([[0, 1], [2, 3], [1, 0]], [[0.6, 0.3], [0.9, 0.1], [0.5, 0.2]],
                            num_classes=4, temperature=2.0)  # fmt: skip
    found = model({"images": images, "targets": targets})
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    logits = model.model((images.float() - mean) / std)
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(logits / 2, 1), targets.dense(), reduction="batchmean"
    )
    torch.testing.assert_close(found["loss_kd"], 4 * expected)


def test_a_loss_that_a_user_wrote(config: Callable[..., Any]) -> None:
    trainer = build(config("REINFORCED.LOSS", "tests.own_loss:ReverseKL", "SOLVER.MAX_ITER", 1))
    model = copy.deepcopy(trainer.model).train()
    batch = next(iter(trainer.build_train_loader(trainer.cfg)))
    expected = ReverseKL()(model._logits(batch["images"]), batch["targets"])
    trainer.train()
    (loss,) = trainer.storage.history("total_loss").values()
    assert loss[0] == pytest.approx(expected.item(), rel=1e-4)


def test_inputs_of_both_kinds_give_the_same() -> None:
    model = ReinforcedClassifier("resnet18", num_classes=4).eval()
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    with torch.inference_mode():
        whole = model({"images": images})["logits"]
        listed = model([{"image": image} for image in images])
    torch.testing.assert_close(torch.stack([answer["logits"] for answer in listed]), whole)


def test_images_from_0_to_1_where_the_network_has_them() -> None:
    model = ReinforcedClassifier("cvnets_resnet18", num_classes=2)
    assert model.pixel_mean.flatten().tolist() == [0.0] * 3
    assert model.pixel_std.flatten().tolist() == [255.0] * 3


WRONG = [
    (("INPUT.FORMAT", "BGR"), ConfigError, "INPUT.FORMAT"),
    (("MODEL.DR_TIMM.NAME", "resnet5O"), ConfigError, "MODEL.DR_TIMM.NAME"),
    (("MODEL.DR_TIMM.NORM", "GN"), ConfigError, "MODEL.DR_TIMM.NORM"),
    (("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]), CheckpointError, "MODEL.PIXEL_STD"),
    (("REINFORCED.LOSS", "KDLos"), ConfigError, "REINFORCED.LOSS"),
    (
        ("REINFORCED.LOSS", "tests.own_loss:ReverseKL", "REINFORCED.LABEL_WEIGHT", 0.1),
        ConfigError,
        "REINFORCED.LABEL_WEIGHT",
    ),
]


@pytest.mark.parametrize(("options", "kind", "text"), WRONG)
def test_wrong_models(
    options: tuple[Any, ...], kind: type[Exception], text: str, config: Callable[..., Any]
) -> None:
    with pytest.raises(kind) as error:
        build_model(config(*options))
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("MODEL.DR_TIMM.NUM_CLASSES", 5), "MODEL.DR_TIMM.NUM_CLASSES"),
        (("REINFORCED.TEMPERATURE", 2.0), "REINFORCED.TEMPERATURE"),
        (
            ("REINFORCED.LOSS", "tests.own_loss:ReverseKL(temperature=2.0)"),
            "REINFORCED.TEMPERATURE",
        ),
    ],
)
def test_models_that_do_not_fit_the_shard_set(
    options: tuple[Any, ...], text: str, config: Callable[..., Any]
) -> None:
    trainer = build(config(*options, "SOLVER.MAX_ITER", 1))
    with pytest.raises(ConfigError) as error:
        trainer.train()
    assert text in str(error.value)


def test_a_new_demand_is_checked(config: Callable[..., Any], new_demand: str) -> None:
    trainer = build(config("SOLVER.MAX_ITER", 1))
    with pytest.raises(ConfigError, match=new_demand):
        trainer.train()


def test_frozen_normalisation_needs_weights(config: Callable[..., Any], tmp_path: Path) -> None:
    options = ("MODEL.DR_TIMM.NORM", "FrozenBN", "SOLVER.MAX_ITER", 1, "DATASETS.TEST", ())
    with pytest.raises(CheckpointError, match=r"MODEL\.DR_TIMM\.NORM.*'SyncBN'"):
        build(config(*options)).train()
    whole = ReinforcedClassifier("resnet18", num_classes=3)
    DetectionCheckpointer(whole, str(tmp_path)).save("before")
    for scheme in ("imagenet-plus://", ""):
        trainer = build(config(*options))
        trainer.checkpointer.load(f"{scheme}{tmp_path}/before.pth")
        trainer.train()
    part = {"model": {"model.fc.bias": torch.zeros(3)}}
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part\.pth does not have all weights"):
        build(config(*options)).checkpointer.load(str(tmp_path / "part.pth"))


def test_a_trainers_state_without_optimizer_is_refused(
    config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Detectron2 0.6 has it, which keeps the hooks' state and the iteration only.
    monkeypatch.setattr(DefaultTrainer, "state_dict", TrainerBase.state_dict)
    monkeypatch.setattr(DefaultTrainer, "load_state_dict", TrainerBase.load_state_dict)
    trainer = build(config("SOLVER.MAX_ITER", 1))
    foreign = DefaultTrainer.state_dict(trainer)
    with pytest.raises(CheckpointError, match=r"no state of the optimizer.*--resume"):
        trainer.load_state_dict(foreign)
    trainer.load_state_dict(trainer.state_dict())


def test_a_checkpoint_of_other_classes(config: Callable[..., Any], saved: Saved) -> None:
    _, path = saved("resnet18")
    with pytest.raises(CheckpointError, match=r"MODEL\.DR_TIMM\.NUM_CLASSES"):
        DetectionCheckpointer(build_model(config())).load(f"imagenet-plus://{path}")


@pytest.fixture
def other_activations(tmp_path: Path) -> Path:
    """A classifier whose tensors look like those of a plain ResNet-18, saved by Detectron2."""
    network = ReinforcedClassifier("resnet18", num_classes=3, act_layer="silu", drop_path_rate=0.1)
    plain = ReinforcedClassifier("resnet18", num_classes=3)
    shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in (network, plain)]
    assert shapes[0] == shapes[1]
    DetectionCheckpointer(network, str(tmp_path)).save("other_activations")
    return tmp_path / "other_activations.pth"


@pytest.mark.parametrize("options", [TIMM, NATIVE], ids=["timm", "native"])
def test_backbones_of_other_options_are_refused(
    options: tuple[Any, ...], other_activations: Path, yacs: Yacs
) -> None:
    with pytest.raises(CheckpointError, match=r"act_layer='silu'.*act_layer=None.*TIMM\.OPTIONS"):
        DetectionCheckpointer(build_model(yacs(*options))).load(
            f"imagenet-plus://{other_activations}"
        )


def test_backbones_of_the_same_options_are_loaded(
    other_activations: Path, yacs: Yacs, config: Callable[..., Any]
) -> None:
    cfg = yacs(*TIMM)
    cfg.MODEL.DR_TIMM.OPTIONS.act_layer = "silu"
    cfg.MODEL.DR_TIMM.OPTIONS.drop_path_rate = 0.3
    use_checkpoint(cfg, f"imagenet-plus://{other_activations}")
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    trained = torch.load(other_activations)["model"]["model.layer4.1.conv2.weight"]
    assert torch.equal(model.backbone.bottom_up.network.features.layer4[1].conv2.weight, trained)


def test_classifiers_compare_what_they_go_on_with(
    other_activations: Path, config: Callable[..., Any], tmp_path: Path
) -> None:
    for scheme in ("imagenet-plus://", ""):
        with pytest.raises(CheckpointError, match="act_layer='silu'"):
            DetectionCheckpointer(build_model(config())).load(f"{scheme}{other_activations}")
        cfg = config()
        cfg.MODEL.DR_TIMM.OPTIONS.act_layer = "silu"
        same = build_model(cfg)
        DetectionCheckpointer(same).load(f"{scheme}{other_activations}")
        assert same.load_record.is_complete
    # Another network with the names and shapes of resnet50.
    other = ReinforcedClassifier("resnetaa50", num_classes=3)
    DetectionCheckpointer(other, str(tmp_path)).save("other")
    for scheme in ("imagenet-plus://", ""):
        model = build_model(config("MODEL.DR_TIMM.NAME", "resnet50"))
        with pytest.raises(CheckpointError, match="resnetaa50"):
            DetectionCheckpointer(model).load(f"{scheme}{tmp_path}/other.pth")


def test_checkpoints_without_name_and_options_are_loaded(
    config: Callable[..., Any], tmp_path: Path
) -> None:
    network = ReinforcedClassifier("resnet18", num_classes=3)
    state = network.state_dict()
    del state["_extra_state"]
    torch.save({"model": state}, tmp_path / "before.pth")
    for scheme in ("imagenet-plus://", ""):
        classifier = build_model(config())
        DetectionCheckpointer(classifier).load(f"{scheme}{tmp_path}/before.pth")
        assert torch.equal(classifier.model.fc.weight, network.model.fc.weight)


def test_use_checkpoint_of_a_classifier(config: Callable[..., Any], tmp_path: Path) -> None:
    network = ReinforcedClassifier("cvnets_resnet18", num_classes=3)
    DetectionCheckpointer(network, str(tmp_path)).save("before")
    cfg = config("MODEL.DR_TIMM.NAME", "cvnets_resnet18")
    use_checkpoint(cfg, f"imagenet-plus://{tmp_path}/before.pth")
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == ([0.0] * 3, [255.0] * 3)
    classifier = build_model(cfg)
    DetectionCheckpointer(classifier).load(cfg.MODEL.WEIGHTS)
    assert torch.equal(classifier.model.fc.weight, network.model.fc.weight)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mixed precision needs a GPU")
def test_mixed_precision(images: Path, shards: Path) -> None:
    model = ReinforcedClassifier("resnet18", num_classes=3).cuda()
    loader = build_reinforced_train_loader(str(images), str(shards), total_batch_size=12)
    trainer = AMPTrainer(model, loader, torch.optim.SGD(model.parameters(), 0.05))
    trainer.train(0, 40)
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_precision_of_the_loss_under_autocast() -> None:
    model = ReinforcedClassifier("resnet18", num_classes=3).train()
    images = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    targets = SparseTargets.one_hot([0, 1, 2, 0], num_classes=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model({"images": images, "targets": targets})["loss_kd"]
    assert loss.dtype == torch.float32
    assert isinstance(model.loss, KDLoss)


def test_images_to_evaluate_on_are_checked_before_training(
    config: Callable[..., Any], validation: Path, tmp_path: Path
) -> None:
    shutil.copytree(sorted(validation.iterdir())[1], tmp_path / "val" / "another")
    with pytest.raises(DatasetMismatchError, match="another"):
        build(config("DATASETS.TEST", (str(tmp_path / "val"),)))


def test_the_label_has_its_share_of_the_loss(config: Callable[..., Any]) -> None:
    model = build_model(config("REINFORCED.LABEL_WEIGHT", 0.25)).train()
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    targets = SparseTargets([[0, 1]] * 4, [[0.6, 0.3]] * 4, num_classes=3, labels=[2] * 4)
    found = model({"images": images, "targets": targets})["loss_kd"]
    logits = model._logits(images)
    expected = 0.75 * KDLoss()(logits, targets) + 0.25 * torch.nn.functional.cross_entropy(
        logits, torch.tensor([2] * 4)
    )
    torch.testing.assert_close(found, expected)


def test_a_plain_path_that_leaves_random_weights_is_refused(
    config: Callable[..., Any], tmp_path: Path
) -> None:
    """Detectron2 only warns; another number of classes is meant to be."""
    network = ReinforcedClassifier("resnet18", num_classes=3).model
    torch.save(network.state_dict(), tmp_path / "of_timm.pth")
    with pytest.raises(CheckpointError, match=r"imagenet-plus://.*of_timm\.pth"):
        DetectionCheckpointer(build_model(config())).load(f"{tmp_path}/of_timm.pth")
    DetectionCheckpointer(ReinforcedClassifier("resnet18", num_classes=7), str(tmp_path)).save("7")
    classifier = build_model(config())
    DetectionCheckpointer(classifier).load(f"{tmp_path}/7.pth")
    assert classifier.is_loaded
    assert not classifier.load_record.is_complete
