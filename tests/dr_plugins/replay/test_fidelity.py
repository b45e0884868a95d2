"""What the teacher saw and answered is, bit for bit, what the student gets."""

from __future__ import annotations

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision.datasets.folder import default_loader

from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy
from dr_plugins.training.dataset import ReinforcedDataset
from tests.tiny import TinyTeacher, photograph
from tests.tiny import policy as small

PRESETS = ("rrc", "mixing", "randaug", "randaug_mixing", "cifar")
BACKENDS = ("pil", "tensor")
CLASSES = 3
Seen = dict[str, list[tuple[bytes, bytes, bytes]]]  # by key: (view, ids, probs), sorted


class SpyingTeacher(nn.Module):
    """Remembers every view that it is shown, and its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyTeacher(CLASSES)
        self.views: list[torch.Tensor] = []
        self.probs: list[torch.Tensor] = []

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        assert views.dtype == torch.uint8
        logits = self.inner(views)
        self.views.append(views.clone())
        self.probs.append(logits.softmax(-1))
        return logits

    def seen(self, keys: list[str], topk: int, probs_dtype: str) -> Seen:
        """Everything but the first two calls, which ask for the number of classes."""
        views = torch.cat(self.views[2:]).numpy()
        probs = torch.cat(self.probs[2:]).numpy()
        samples, rest = divmod(len(views), len(keys))
        assert rest == 0
        order = np.argsort(-probs, axis=1, kind="stable")[:, :topk]
        stored = np.take_along_axis(probs, order, 1).astype(probs_dtype).astype(np.float32)
        seen: Seen = {}
        for row, key in enumerate(sorted(keys, key=str.encode)):
            rows = range(row * samples, (row + 1) * samples)
            seen[key] = sorted((views[i].tobytes(), *_bytes(order[i], stored[i])) for i in rows)
        return seen


def _bytes(ids: np.ndarray, probs: np.ndarray) -> tuple[bytes, bytes]:
    return ids.astype(np.int64).tobytes(), probs.astype(np.float32).tobytes()


def _every_mode() -> Iterator[tuple[str, Image.Image, dict[str, Any]]]:
    """(file name, image, options for saving): every mode, odd and tiny sizes."""
    a, b = photograph(1, 33, 47), photograph(2, 33, 47)
    grey, alpha = a.convert("L"), b.convert("L")
    palette = a.quantize(60)
    exif = Image.Exif()
    exif[0x0112] = 8
    wide = np.asarray(grey, np.int32) * 257
    yield "rgb.png", a, {}
    yield "l.png", grey, {}
    yield "la.png", Image.merge("LA", (grey, alpha)), {}
    yield "p.png", palette, {}
    yield "p_transparent.png", palette, {"transparency": bytes(range(60))}
    yield "rgba.png", Image.merge("RGBA", (*a.split(), alpha)), {}
    yield "cmyk.tif", a.convert("CMYK"), {}
    yield "cmyk.jpg", a.convert("CMYK"), {}
    yield "one.png", grey.convert("1"), {}
    yield "i16.png", Image.fromarray(wide.astype(np.uint16)), {}
    yield "i.tif", Image.fromarray(wide // 200 - 20), {}
    yield "f.tif", Image.fromarray(wide.astype(np.float32) / 200), {}
    yield "ycbcr.jpg", a, {"quality": 80}
    yield "full.jpg", a, {"subsampling": 0}
    yield "rotated.jpg", a, {"exif": exif}
    yield "grey.jpg", grey, {}
    yield "progressive.jpg", b, {"progressive": True}
    yield "animated.gif", a, {"save_all": True, "append_images": [b, a]}
    yield "animated.webp", a, {"save_all": True, "append_images": [b]}
    for height, width in ((1, 1), (1, 40), (40, 1), (2, 3), (31, 17), (90, 25)):
        yield f"{height}x{width}.png", photograph(height, height, width), {}
        yield f"{height}x{width}.jpg", photograph(width, height, width), {}


@pytest.fixture(scope="module")
def every_mode(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    root = tmp_path_factory.mktemp("modes")
    for i, (name, image, options) in enumerate(_every_mode()):
        folder = root / f"n0{i % CLASSES}"
        folder.mkdir(exist_ok=True)
        image.save(folder / name, **options)
    extensions = (".jpg", ".png", ".tif", ".gif", ".webp")
    return DatasetFolder(str(root), default_loader, extensions)


@pytest.fixture(autouse=True)
def _without_pillows_advice() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Palette images with Transparency")
        yield


def generate(
    out: Path,
    images: Any,
    policy: Policy,
    workers: int = 0,
    views_on: str | None = None,
    **options: Any,
) -> Seen:
    source, spy = ImageSource(images), SpyingTeacher()
    generation = GenerationSettings(policy, **options)
    chosen: dict[str, Any] = {"workers": workers, "views_on": views_on}
    # A teacher of random weights knows none of the labels.
    reinforce(source, Ensemble([spy]), out, generation, min_agreement=0, **chosen)
    return spy.seen(list(source.keys), generation.topk, generation.probs_dtype)


def replayed(
    train: ReinforcedDataset, order: np.ndarray, batch_size: int = 7, workers: int = 0
) -> Seen:
    """Everything that S epochs of a training loop get."""
    found: Any = defaultdict(list)
    loader: Any = DataLoader(
        train,
        batch_size,
        sampler=order.tolist(),
        num_workers=workers,
        collate_fn=train.collate,
        persistent_workers=workers > 0,
    )
    for epoch in range(train.shards.manifest.samples):
        train.set_epoch(epoch)
        keys = iter(train.source.keys[i] for i in order)
        for views, targets in loader:
            assert (views.dtype, targets.num_classes) == (torch.uint8, CLASSES)
            for view, ids, probs in zip(views, targets.ids, targets.probs, strict=True):
                found[next(keys)].append(
                    (view.numpy().tobytes(), *_bytes(ids.numpy(), probs.numpy()))
                )
    return {key: sorted(samples) for key, samples in found.items()}


# --- the property ---------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    name=st.sampled_from(PRESETS),
    backend=st.sampled_from(BACKENDS),
    side=st.integers(1, 30),
    samples=st.integers(1, 4),
    options=st.fixed_dictionaries(
        {
            "topk": st.integers(1, CLASSES),
            "batch_size": st.integers(1, 60),
            "shard_images": st.integers(1, 12),
            "seed": st.integers(0, 2**64 - 1),
            "probs_dtype": st.sampled_from(["float16", "float32"]),
            "views_on": st.sampled_from(["workers", "device"]),
        }
    ),
    student_seed=st.integers(0, 2**63 - 1),
    student_batch=st.integers(1, 12),
    choice=st.integers(0, 2**32),
)
def test_students_get_what_the_teacher_saw_and_said(
    every_mode: DatasetFolder,
    name: str,
    backend: str,
    side: int,
    samples: int,
    options: dict[str, Any],
    student_seed: int,
    student_batch: int,
    choice: int,
) -> None:
    rng = np.random.default_rng(choice)
    picked = rng.permutation(len(every_mode))[: rng.integers(1, 9)]
    images = Subset(every_mode, picked.tolist())
    with tempfile.TemporaryDirectory() as folder:
        policy = small(name, size=side, backend=backend)
        seen = generate(Path(folder), images, policy, samples=samples, **options)
        train = ReinforcedDataset(images, folder, p=1.0, seed=student_seed)
        assert replayed(train, rng.permutation(len(images)), student_batch) == seen


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_mode_of_image(
    every_mode: DatasetFolder, tmp_path: Path, name: str, backend: str
) -> None:
    policy = small(name, backend=backend)
    options = {"samples": 3, "topk": 2, "shard_images": 10}
    seen = generate(tmp_path / "a", every_mode, policy, **options)
    assert generate(tmp_path / "b", every_mode, policy, views_on="device", **options) == seen
    train = ReinforcedDataset(every_mode, tmp_path / "a", p=1.0)
    assert replayed(train, np.arange(len(every_mode))[::-1]) == seen
    assert len(seen) == len(every_mode) == 31
    distinct = {view for samples in seen.values() for view, _, _ in samples}
    assert len(distinct) > 60, "the views are too much alike to tell them apart"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("maker", "student", "batch_size", "backend"),
    [(3, 0, 5, "tensor"), (0, 3, 4, "tensor"), (1, 1, 64, "pil"), (3, 3, 1, "pil")],
)
def test_any_number_of_workers(
    every_mode: DatasetFolder,
    tmp_path: Path,
    maker: int,
    student: int,
    batch_size: int,
    backend: str,
) -> None:
    policy = small("randaug_mixing", size=20, backend=backend)
    options = {"samples": 2, "topk": 2, "batch_size": 9, "shard_images": 8}
    seen = generate(tmp_path / "a", every_mode, policy, workers=maker, **options)
    order = np.random.default_rng(maker).permutation(len(every_mode))
    train = ReinforcedDataset(every_mode, tmp_path / "a", p=1.0)
    assert replayed(train, order, batch_size, workers=student) == seen
    assert generate(tmp_path / "b", every_mode, policy, workers=0, **options) == seen
    for file in sorted((tmp_path / "b").glob("*.safetensors")):
        assert (tmp_path / "a" / file.name).read_bytes() == file.read_bytes()


def test_a_training_size_view(tmp_path: Path, photographs: Path) -> None:
    images = Subset(ImageFolder(str(photographs)), [0, 5, 9, 10])
    for backend in BACKENDS:
        out = tmp_path / backend
        policy = Policy.load("randaug_mixing", backend=backend)
        seen = generate(out, images, policy, samples=2, topk=3, views_on="device")
        train = ReinforcedDataset(images, out, p=1.0)
        assert replayed(train, np.arange(len(images))) == seen


# --- the teacher's answers ------------------------------------------------------------------------


def test_lossless_probabilities_are_the_softmax_itself(
    every_mode: DatasetFolder, tmp_path: Path
) -> None:
    spy = SpyingTeacher()
    source = ImageSource(every_mode)
    options = GenerationSettings(small("rrc"), samples=2, topk=3, probs_dtype="float32")
    reinforce(source, Ensemble([spy]), tmp_path, options, min_agreement=0)
    train = ReinforcedDataset(every_mode, tmp_path, p=1.0)
    answers = {
        view.numpy().tobytes(): probs
        for view, probs in zip(torch.cat(spy.views), torch.cat(spy.probs), strict=True)
    }
    for view, target in train.__getitems__(range(len(train))):
        expected = answers[view.numpy().tobytes()]
        assert torch.equal(target.probs, expected[target.ids])
        assert (target.probs.diff() <= 0).all()
        assert sorted(target.ids.tolist()) == [0, 1, 2]


def test_half_precision_is_the_nearest_half(every_mode: DatasetFolder, tmp_path: Path) -> None:
    seen = generate(tmp_path / "a", every_mode, small("rrc"), samples=2, topk=3)
    exact = generate(
        tmp_path / "b", every_mode, small("rrc"), samples=2, topk=3, probs_dtype="float32"
    )
    for key, samples in exact.items():
        for (view, ids, probs), (other_view, other_ids, rounded) in zip(
            samples, seen[key], strict=True
        ):
            assert (view, ids) == (other_view, other_ids)
            wide = np.frombuffer(probs, np.float32)
            assert np.frombuffer(rounded, np.float32).tolist() == [
                float(np.float16(p)) for p in wide
            ]
