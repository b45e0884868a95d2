from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
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
    ImageReadError,
    TeacherError,
)
from dr_plugins.generation import making
from dr_plugins.generation.generate import GenerationSettings, reinforce
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
from tests.tiny import TinyTeacher, hurt, make_photographs, make_set, policy

# 12 images and 6 views of each in shards of 5 images and batches of 16: no multiple of another.


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Many tiny generations: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def files(directory: Path) -> dict[str, bytes]:
    """All that a set consists of."""
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name != ".lock"}


def generate(
    out: Path,
    images: Path,
    *,
    teacher: nn.Module | None = None,
    policy_: Policy | None = None,
    **options: Any,
) -> None:
    settings = GenerationSettings(
        policy_ or policy("randaug_mixing"), samples=6, topk=2, batch_size=16, shard_images=5
    )
    source = ImageSource(ImageFolder(str(images)))
    reinforce(source, Ensemble([teacher or TinyTeacher()]), out, settings, **options)


@pytest.fixture(params=[0, 2], ids=["waiting", "ahead"])
def unfinished(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many answers may be on their way; 2 is what CUDA gets."""
    monkeypatch.setattr(making, "_UNFINISHED", {"cpu": request.param})
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "set"
    generate(out, photographs)
    return out


class Counting(TinyTeacher):
    """Does something when it is asked for the n-th time; the first time only counts classes."""

    def __init__(self, call: int = 0, action: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.calls, self.call, self.action = 0, call, action

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.call:
            self.action()
        return super().forward(views)


# --- content --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_the_result_does_not_depend_on_workers(
    tmp_path: Path, photographs: Path, uninterrupted: Path, workers: int
) -> None:
    generate(tmp_path / "set", photographs, workers=workers)
    assert files(tmp_path / "set") == files(uninterrupted)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["rrc", "mixing", "randaug", "randaug_mixing", "cifar"])
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
    answers = iter([0.0] * 3)
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


# --- interruption ---------------------------------------------------------------------------------


def in_child(function: Callable[[], Any]) -> tuple[int, str]:
    """Run in a forked process; its exit code (negative: the signal) and the error it met."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        torch.set_num_threads(1)  # a forked process must not wait for its parent's threads
        try:
            function()
            sender.send("")
        except Exception as error:
            sender.send(f"{type(error).__name__}: {error}")

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    sender.close()
    try:
        message = receiver.recv()
    except EOFError:
        message = "killed"
    process.join()
    assert process.exitcode is not None
    return process.exitcode, message


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_teacher(out: Path, images: Path, call: int) -> None:
    code, _ = in_child(lambda: generate(out, images, teacher=Counting(call, kill_me)))
    assert code == -signal.SIGKILL


def killed_at_write(out: Path, images: Path, write: int, *, renamed: bool) -> None:
    """Kill between writing the n-th file and naming it, or right after."""
    count, replace = 0, os.replace

    def replace_and_die(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == write and not renamed:
            kill_me()
        replace(source, target)
        if count == write:
            kill_me()

    def run() -> None:
        os.replace = replace_and_die  # only in the forked process
        generate(out, images)

    code, _ = in_child(run)
    assert code == -signal.SIGKILL


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("calls", [(2, 2), (3, 5), (4, 2), (5, 3), (6, 2)])
def test_killed_twice_while_working_and_resumed(
    tmp_path: Path, photographs: Path, uninterrupted: Path, calls: tuple[int, int]
) -> None:
    out = tmp_path / "set"
    for call in calls:
        killed_at_teacher(out, photographs, call)
    generate(out, photographs)
    assert files(out) == files(uninterrupted)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("write", range(1, 8))
def test_killed_while_writing_and_resumed(
    tmp_path: Path, photographs: Path, uninterrupted: Path, write: int, renamed: bool
) -> None:
    out = tmp_path / "set"  # written: settings, index, three shards, index, manifest
    killed_at_write(out, photographs, write, renamed=renamed)
    left_over = list(out.glob("*.tmp"))
    assert len(left_over) == (0 if renamed else 1)
    generate(out, photographs)
    assert files(out) == files(uninterrupted)


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_finished_shards_are_kept_and_reported(
    tmp_path: Path, photographs: Path, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "set"
    killed_at_teacher(out, photographs, 4)
    kept = out / "shard-00000.safetensors"
    before = identity(kept)
    assert not (out / "shard-00001.safetensors").exists()
    teacher = Counting()
    with caplog.at_level(logging.INFO):
        generate(out, photographs, teacher=teacher, workers=1)
    assert "resuming: 1 of 3 shards are finished" in caplog.text
    assert identity(kept) == before
    assert teacher.calls == 1 + 1 + 2 + 1  # classes, a finished shard asked again, two shards
    assert files(out) == files(uninterrupted)


@pytest.mark.parametrize("position", [20, -1])
def test_a_corrupt_finished_shard_is_made_again_with_a_warning(
    tmp_path: Path,
    photographs: Path,
    uninterrupted: Path,
    caplog: pytest.LogCaptureFixture,
    position: int,
) -> None:
    out = tmp_path / "set"
    killed_at_teacher(out, photographs, 6)
    damaged = out / "shard-00001.safetensors"
    data = bytearray(damaged.read_bytes())
    data[position] ^= 1
    damaged.write_bytes(data)
    generate(out, photographs)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "shard-00001.safetensors" in record.getMessage()
    assert files(out) == files(uninterrupted)


def test_a_finished_set_returns_at_once(
    tmp_path: Path, photographs: Path, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = shutil.copytree(uninterrupted, tmp_path / "set")
    before = {p.name: identity(p) for p in out.glob("*.safetensors")}
    teacher = Counting()
    with caplog.at_level(logging.INFO):
        generate(out, photographs, teacher=teacher)
    assert teacher.calls == 1
    assert {p.name: identity(p) for p in out.glob("*.safetensors")} == before
    assert "already complete" in caplog.text


@pytest.mark.parametrize("file", ["shard-00001.safetensors", "index.safetensors"])
def test_a_file_missing_from_a_finished_set_is_made_again(
    tmp_path: Path,
    photographs: Path,
    uninterrupted: Path,
    caplog: pytest.LogCaptureFixture,
    file: str,
) -> None:
    out = shutil.copytree(uninterrupted, tmp_path / "set")
    before = identity(out / "shard-00000.safetensors")
    (out / file).unlink()
    generate(out, photographs)
    assert f"1 files are missing, such as {file}" in caplog.text
    assert files(out) == files(uninterrupted)
    assert identity(out / "shard-00000.safetensors") == before


@pytest.mark.usefixtures("unfinished")
def test_a_failing_disk_keeps_finished_shards(
    tmp_path: Path, photographs: Path, uninterrupted: Path
) -> None:
    out = tmp_path / "set"

    def fill_the_disk() -> None:  # no file of this process may grow beyond 1,000 bytes
        deadline = time.monotonic() + 60
        while not (out / "shard-00000.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.01)  # it may still be written behind the teacher's back
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    _, message = in_child(lambda: generate(out, photographs, teacher=Counting(4, fill_the_disk)))
    assert message.startswith(f"OutputError: cannot write {out}/shard-00001.safetensors: File too")
    assert "finished shards are kept" in message
    assert [file.name for file in out.glob("shard-*")] == ["shard-00000.safetensors"]
    before = identity(out / "shard-00000.safetensors")
    generate(out, photographs)
    assert files(out) == files(uninterrupted)
    assert identity(out / "shard-00000.safetensors") == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody without rights")
def test_a_directory_without_write_permission(photographs: Path) -> None:
    settings = GenerationSettings(policy(), samples=1, topk=1)
    source = ImageSource(ImageFolder(str(photographs)))

    def run(writable: Path, out: Path) -> None:
        os.setuid(65534)
        with locked(writable):  # it is the permission that stops, not the way there
            pass
        reinforce(source, Ensemble([TinyTeacher()]), out, settings)

    # Not in tmp_path, whose parents only their owner may enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        writable, read_only = Path(place) / "writable", Path(place) / "read-only"
        for directory, mode in ((Path(place), 0o755), (writable, 0o777), (read_only, 0o755)):
            directory.mkdir(exist_ok=True)
            directory.chmod(mode)
        for out in (read_only, read_only / "new"):
            _, message = in_child(lambda out=out: run(writable, out))
            assert message == (
                f"OutputError: cannot write to {out}: Permission denied. Choose a writable "
                f"directory."
            )


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_and_keeps_finished_shards(tmp_path: Path, workers: int) -> None:
    images = make_photographs(tmp_path / "images")
    damaged = sorted(images.glob("n03/*"))[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(hurt(whole))
    out = tmp_path / "set"
    with pytest.raises(ImageReadError, match=f"'n03/{damaged.name}'"):
        make_set_with(out, images, workers)
    assert (out / "shard-00000.safetensors").exists()
    assert not (out / "manifest.json").exists()
    damaged.write_bytes(whole)
    make_set(out, images)
    assert files(out) == files(make_set(tmp_path / "again", images))


def make_set_with(out: Path, images: Path, workers: int) -> None:
    settings = GenerationSettings(policy(), samples=6, topk=2, batch_size=16, shard_images=5)
    source = ImageSource(ImageFolder(str(images)))
    options = {"workers": workers, "min_agreement": 0}  # which would meet the image first
    reinforce(source, Ensemble([TinyTeacher()]), out, settings, **options)


# --- teachers and settings that do not fit --------------------------------------------------------


def test_more_classes_stored_than_there_are(tmp_path: Path, photographs: Path) -> None:
    with pytest.raises(FormatError, match=r"top-k is 4 with 3 classes; choose 1 <= k <= 3"):
        make_set(tmp_path / "set", photographs, topk=4)
    assert not (tmp_path / "set").exists()


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
        (lambda v: torch.zeros(len(v)), r"with shape \[1\]"),
        (lambda v: torch.zeros(len(v), 3, 7, 7), r"with shape \[1, 3, 7, 7\]"),
        (lambda v: torch.zeros(len(v) + 1, 3), r"1 views with shape \[2, 3\]"),
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
    answers = iter([0.0] * 3)
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
