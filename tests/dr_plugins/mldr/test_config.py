from __future__ import annotations

from typing import Any

import pytest

from dr_plugins.mldr.config import Example, parse_config
from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.transforms.operations import operation_names

NORMALIZE = {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
RRC = {"random_resized_crop": {"enable": True, "size": 224}}
FLIP = {"random_horizontal_flip": {"enable": True, "p": 0.5}}
BOX = (0, 0, 10, 10)


def config(augmentation: dict[str, Any], **values: Any) -> dict[str, Any]:
    reinforce = {"num_samples": 50, "topk": 10, "image_augmentation": augmentation}
    return {"dataset": "imagenet", "reinforce": reinforce, **values}


def example(params: Any = None, samples: int = 50, topk: int = 10) -> Example:
    return Example([BOX, True] if params is None else params, samples, topk)


def test_defaults_are_those_of_torchvision_and_mldr() -> None:
    names = ("random_horizontal_flip", "rand_augment", "random_erase", "mixup", "cutmix")
    augmentation = {**RRC, **{name: {} for name in names}, "normalize": NORMALIZE}
    found = parse_config(config(augmentation), example())
    assert found.policy.to_config() == {
        "backend": "pil",
        "random_resized_crop": {
            "size": 224,
            "scale": [0.08, 1.0],
            "ratio": [3 / 4, 4 / 3],
            "interpolation": "bilinear",
        },
        "random_horizontal_flip": {"p": 0.5},
        "rand_augment": {
            "num_ops": 2,
            "magnitude": 9,
            "num_magnitude_bins": 31,
            "p": 1.0,
            "operations": list(operation_names()),
        },
        "random_erase": {"p": 0.5, "scale": [0.02, 0.33], "ratio": [0.3, 3.3]},
        "mixup": {"alpha": 1.0, "div_by": 1.0, "p": 1.0},
        "cutmix": {"alpha": 1.0, "p": 1.0},
    }
    assert (found.mean, found.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert (found.samples, found.topk, found.num_classes, found.notes) == (50, 10, 1000, ())


def test_switched_off_transforms_are_left_out() -> None:
    found = parse_config(config({**RRC, "rand_augment": {"enable": False}, **FLIP}), example())
    assert [t.name for t in found.policy.transforms] == [
        "random_resized_crop",
        "random_horizontal_flip",
    ]


def test_sizes_as_torchvision_reads_them() -> None:
    cifar = {"resize": {"size": [40, 50]}, "random_crop": {"size": [32, 32], "padding": 4}}
    config_ = parse_config(config(cifar), example()).policy.to_config()
    assert config_["resize"]["size"] == [40, 50]
    assert config_["random_crop"] == {"size": 32, "padding": 4}
    one = parse_config(config({"resize": {"size": [40]}, **RRC}), example()).policy.to_config()
    assert one["resize"]["size"] == 40


def test_counts_come_from_the_members() -> None:
    found = parse_config(config(RRC), example(samples=100, topk=5))
    assert (found.samples, found.topk) == (100, 5)
    for note, facts in zip(found.notes, ("num_samples 50 100", "topk 10 5"), strict=True):
        assert all(fact in note for fact in facts.split())


@pytest.mark.parametrize(
    "params",
    [
        [BOX, True, None, None],
        {"random_resized_crop": (BOX, BOX), "random_horizontal_flip": (True, False)},
    ],
)
def test_a_misspelled_crop_is_read_where_its_boxes_are_stored(params: Any) -> None:
    misspelled = {"random_resize_crop": {"enable": True, "size": 224}, **FLIP}
    augmentation = {**misspelled, "rand_augment": {}, "random_erase": {}}
    found = parse_config(config(augmentation), example(params))
    assert found.policy.view_size == (224, 224)
    assert found.notes == (
        "'random_resize_crop' is read as 'random_resized_crop': the members hold its boxes",
    )


def test_a_misspelled_crop_that_was_ignored_is_an_error() -> None:
    misspelled = {"random_resize_crop": {"enable": True, "size": 224}, **FLIP}
    with pytest.raises(ArchiveError, match=r"has no crop.*'random_resize_crop' is no transform"):
        parse_config(config(misspelled), example([True]))


def test_what_mldr_ignores_is_noted() -> None:
    found = parse_config(config({**RRC, "colour_jitter": {"p": 1.0}}), example())
    assert found.notes == ("'colour_jitter' is no transform of ml-dr, which ignores it",)


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        ({"random_resized_crop": {"size": [224, 225]}}, "size = \\[224, 225\\]"),
        ({"random_resized_crop": {"size": 224, "interpolation": 1}}, "interpolation = 1"),
        ({"random_resized_crop": {}}, "cannot be replayed"),
        ({"random_crop": {"size": 32, "pad_if_needed": True}}, "pad_if_needed = True"),
        ({"random_crop": {"size": 32, "padding_mode": "reflect"}}, "padding_mode"),
        ({**RRC, "rand_augment": {"interpolation": 2}}, "interpolation = 2"),
        ({**RRC, "rand_augment": {"fill": [1, 2, 3]}}, "fill"),
        ({**RRC, "rand_augment": {"magnitude": 31}}, "magnitude"),
        ({**RRC, "random_horizontal_flip": {"chance": 1}}, "chance"),
        ({**RRC, "mixup": None}, "expected a dictionary"),
        ({**RRC, "mixup": {"enable": "False"}}, "enable = 'False'"),
        ({**RRC, "rand_augment": {"num_ops": 60_000}}, "num_ops = 60000"),
        ({**RRC, "normalize": {"mean": "0.5"}}, "mean = '0.5'"),
    ],
)
def test_what_cannot_be_replayed_is_refused(augmentation: Any, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        parse_config(config(augmentation), example())


@pytest.mark.parametrize("content", [None, [], {}, {"reinforce": 3}, {"reinforce": {}}])
def test_no_configuration(content: Any) -> None:
    with pytest.raises(ArchiveError, match="not a configuration"):
        parse_config(content, example())


@pytest.mark.parametrize("content", [None, (1,), (1, []), (1, [3]), (1, [{"params": []}])])
def test_no_example(content: Any) -> None:
    with pytest.raises(ArchiveError, match="does not hold"):
        Example.of(content)


def test_classes_and_teachers() -> None:
    found = parse_config(config(RRC, num_classes=7, teacher={"name": "a, b"}), example())
    assert (found.num_classes, found.teachers) == (7, ("a", "b"))
    assert parse_config(config(RRC, dataset="other"), example()).num_classes is None
