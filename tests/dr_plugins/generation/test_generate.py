from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from dr_plugins.errors import (
    DatasetMismatchError,
    DeviceMismatchError,
    FormatError,
    TeacherError,
)
from dr_plugins.generation.generate import GenerationSettings
from dr_plugins.generation.making import ShardMaker
from dr_plugins.generation.planning import plan_generation
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy
from dr_plugins.replay.replayer import Replayer
from dr_plugins.shards.claims import locked
from dr_plugins.shards.output import OutputDirectory
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.verify import verify
from tests.dr_plugins.generation.whole_sets import generate
from tests.tiny import TinyTeacher, files, make_set, policy

# --- content --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_the_result_does_not_depend_on_workers(
    tmp_path: Path, photographs: Path, uninterrupted: Path, workers: int
) -> None:
    generate(tmp_path / "set", photographs, workers=workers)
    assert files(tmp_path / "set") == files(uninterrupted)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["randaug_mixing", "cifar"])
@pytest.mark.parametrize("backend", ["pil", "tensor"])
def test_the_result_does_not_depend_on_who_makes_the_views(
    tmp_path: Path, photographs: Path, name: str, backend: str, workers: int
) -> None:
    small = policy(name, backend=backend)
    generate(tmp_path / "a", photographs, policy_=small, views_on="workers")
    generate(tmp_path / "b", photographs, policy_=small, views_on="device", workers=workers)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_shards_may_be_made_apart_in_any_order(
    tmp_path: Path, photographs: Path, uninterrupted: Path
) -> None:
    settings = GenerationSettings(
        policy("randaug_mixing"), samples=6, topk=2, batch_size=16, shard_images=5
    )
    teacher, device = Ensemble([TinyTeacher()]), torch.device("cpu")
    source = ImageSource(ImageFolder(str(photographs)))
    plan = plan_generation(source, teacher, settings, teacher_specs=(), device=device, left_out=())
    with locked(tmp_path):
        output = OutputDirectory(tmp_path, plan.identity, plan.layout, plan.keys)
        assert output.missing(range(3)) == [0, 1, 2]
        for numbers, images in (([2], 2), ([0, 1], 10)):
            own = pickle.loads(pickle.dumps((plan, output, teacher)))  # as in another process
            completed: list[int] = []
            ShardMaker(*own, device).make_shards(numbers, completed.append)
            assert sum(completed) == images
        assert all(output.keep(number, *plan.views.place(number)) for number in range(3))
        output.finish()
    assert files(tmp_path) == files(uninterrupted)


def test_workers_resize_where_only_they_can(
    tmp_path: Path, photographs: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "has_batches", False)
    monkeypatch.delattr(Policy, "crop_batch")
    generate(tmp_path / "set", photographs, views_on="device", workers=1)
    assert files(tmp_path / "set") == files(uninterrupted)


def test_workers_make_the_views_of_a_teacher_on_the_cpu(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Policy, "crop_batch")
    generate(tmp_path / "set", photographs, policy_=policy("rrc", backend="tensor"))


def test_views_are_made_by_workers_or_the_device(tmp_path: Path, photographs: Path) -> None:
    with pytest.raises(ValueError, match=r"views_on is 'gpu'; expected one of"):
        generate(tmp_path / "set", photographs, views_on="gpu")


def test_a_device_that_computes_other_pixels_is_refused(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop_batch = Policy.crop_batch
    monkeypatch.setattr(Policy, "crop_batch", lambda *args: crop_batch(*args) ^ 1)
    small = policy("rrc", backend="tensor")
    with pytest.raises(DeviceMismatchError, match=r"6 of 6 views .*cpu.* --views-on work"):
        generate(tmp_path / "set", photographs, policy_=small, views_on="device")
    assert not list((tmp_path / "set").glob("shard-*"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["rrc", "randaug", "randaug_mixing", "cifar"])
@pytest.mark.parametrize("backend", ["pil", "tensor"])
def test_on_a_gpu_the_set_is_that_of_views_from_the_cpu(
    tmp_path: Path, photographs: Path, name: str, backend: str
) -> None:
    large = policy(name, size=224, backend=backend)
    options: dict[str, Any] = {"policy_": large, "device": "cuda"}
    generate(tmp_path / "a", photographs, views_on="workers", **options)
    generate(tmp_path / "b", photographs, workers=2, **options)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    report = verify(tmp_path / "b", ImageSource(ImageFolder(str(photographs))), replay=12)
    assert (report.replayed, report.problems) == (12, [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_answers_that_are_not_finite_stop_before_their_shard(
    tmp_path: Path, photographs: Path
) -> None:
    answers = iter([0.0] * 4)
    teacher = Fixed(lambda v: torch.full((len(v), 3), next(answers, torch.nan), device=v.device))
    with pytest.raises(TeacherError, match="not finite"):
        generate(tmp_path / "set", photographs, teacher=teacher, device="cuda")
    assert sorted(p.name for p in (tmp_path / "set").glob("shard-*")) == ["shard-00000.safetensors"]


class Vandal(TinyTeacher):
    """Changes what it is given."""

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        answer = super().forward(views)
        views.fill_(77)
        return answer


@pytest.mark.parametrize("views_on", ["workers", "device"])
def test_fingerprints_are_those_of_what_the_teacher_was_given(
    tmp_path: Path, photographs: Path, uninterrupted: Path, views_on: str
) -> None:
    generate(tmp_path / "set", photographs, teacher=Vandal(), views_on=views_on)
    assert files(tmp_path / "set") == files(uninterrupted)


def test_what_is_stored_is_what_the_teacher_answers(photographs: Path, uninterrupted: Path) -> None:
    shards = ShardSet(uninterrupted)
    source = ImageSource(ImageFolder(str(photographs)))
    replayer = Replayer(source, shards)
    for index, row in enumerate(replayer.rows.tolist()):
        assert shards.image(row).label == source.load(index)[1]
        records = shards.read(np.full(6, row), np.arange(6))
        views = [replayer.view(index, p)[0] for p in replayer.policy.decode(records)]
        probs = torch.softmax(TinyTeacher()(torch.stack(views)), 1)
        expected = probs.sort(1, descending=True)
        np.testing.assert_array_equal(records["ids"], expected.indices[:, :2])
        np.testing.assert_allclose(records["probs"], expected.values[:, :2].detach(), atol=6e-4)


def test_the_manifest_tells_all(uninterrupted: Path) -> None:
    told = ShardSet(uninterrupted).manifest.settings
    assert told["policy"] == policy("randaug_mixing").to_config()
    assert (told["images"], told["samples"], told["topk"], told["num_classes"]) == (12, 6, 2, 3)
    assert told["class_names"] == ["n01", "n02", "n03"]
    assert (told["precision"], told["device"], told["temperature"]) == ("float32", "cpu", 1.0)
    assert told["compiled"] is False
    assert [entry.images for entry in ShardSet(uninterrupted).manifest.shards] == [5, 5, 2]


def test_views_do_not_depend_on_the_other_images(tmp_path: Path, photographs: Path) -> None:
    folder = ImageFolder(str(photographs))
    whole = ShardSet(make_set(tmp_path / "whole", ImageSource(folder)))
    part = ShardSet(make_set(tmp_path / "part", ImageSource(Subset(folder, [11, 4, 2]))))
    assert len(part) == 3
    for key in part.keys:
        for sample in range(6):
            for field in ("crop", "flip", "ops", "erase"):
                np.testing.assert_array_equal(part[key, sample][field], whole[key, sample][field])


@pytest.mark.parametrize("name", ["rrc", "mixing", "randaug", "randaug_mixing", "cifar"])
@pytest.mark.parametrize("backend", ["pil", "tensor"])
def test_every_fingerprint_replays(
    shard_sets: Callable[..., Path], photographs: Path, name: str, backend: str
) -> None:
    shards = shard_sets(name, backend)
    source = ImageSource(ImageFolder(str(photographs)))
    assert all(ShardSet(shards).image(row).fingerprint for row in range(12))
    report = verify(shards, source, replay=12)
    assert (report.replayed, report.problems) == (12, [])


# --- teachers and settings that do not fit --------------------------------------------------------


def test_more_classes_stored_than_there_are(tmp_path: Path, photographs: Path) -> None:
    with pytest.raises(FormatError, match=r"top-k is 4 with 3 classes; choose 1 <= k <= 3"):
        make_set(tmp_path / "set", photographs, topk=4)
    assert not (tmp_path / "set").exists()


def test_as_many_classes_stored_as_there_are(tmp_path: Path, photographs: Path) -> None:
    assert ShardSet(make_set(tmp_path / "set", photographs, topk=None)).manifest.topk == 3


def test_all_classes_stored(tmp_path: Path, photographs: Path) -> None:
    out = make_set(tmp_path / "set", photographs, topk=3, samples=1, probs_dtype="float32")
    probs = ShardSet(out).records(0)["probs"]
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-6)


def test_a_teacher_of_other_classes(tmp_path: Path, photographs: Path) -> None:
    with pytest.raises(DatasetMismatchError, match=r"images have 3 classes, the teacher 4"):
        make_set(tmp_path / "set", photographs, teacher=TinyTeacher(4))


def test_a_label_beyond_the_teachers_classes_is_named(tmp_path: Path, photographs: Path) -> None:
    folder = ImageFolder(str(photographs))
    pairs = [(folder[0][0], 0), (folder[1][0], 3)]
    source = ImageSource(pairs, keys=["a", "b"])
    with pytest.raises(DatasetMismatchError, match=r"image 'b' has label 3,.* 3 classes"):
        make_set(tmp_path / "set", source)


class Fixed(nn.Module):
    """Calls a function on the views."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, views: torch.Tensor) -> Any:
        return self.function(views)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v: torch.full((len(v), 3), torch.nan), "not finite numbers"),
        (lambda v: torch.zeros(len(v)), r"with shape \[2\]"),
        (lambda v: torch.zeros(len(v), 3, 7, 7), r"with shape \[2, 3, 7, 7\]"),
        (lambda v: torch.zeros(len(v) + 1, 3), r"2 views with shape \[3, 3\]"),
        (lambda v: {"logits": torch.zeros(len(v), 3)}, "with a dict"),
    ],
)
def test_a_teacher_that_answers_something_else(
    tmp_path: Path, photographs: Path, function: Callable[[torch.Tensor], Any], message: str
) -> None:
    with pytest.raises(TeacherError, match=message):
        make_set(tmp_path / "set", photographs, teacher=Fixed(function))


@pytest.mark.usefixtures("unfinished")
def test_a_teacher_that_fails_later_keeps_finished_shards(
    tmp_path: Path, photographs: Path
) -> None:
    answers = iter([0.0] * 4)
    teacher = Fixed(lambda v: torch.full((len(v), 3), next(answers, torch.nan)))
    with pytest.raises(TeacherError, match="not finite"):
        make_set(tmp_path / "set", photographs, teacher=teacher)
    assert (tmp_path / "set" / "shard-00000.safetensors").exists()


def test_more_samples_than_a_set_can_have() -> None:
    with pytest.raises(ValueError, match="samples is 1048577"):
        GenerationSettings(policy(), samples=(1 << 20) + 1)


@pytest.mark.parametrize("name", ["samples", "topk", "batch_size", "shard_images"])
def test_counts_start_at_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        GenerationSettings(policy(), **{name: 0})


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_have_64_bits(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed is {seed}"):
        GenerationSettings(policy(), seed=seed)
