from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from dr_plugins.policies.policy import Policy
from dr_plugins.transforms.kernels import crop_resize as crop_resize_module
from dr_plugins.transforms.kernels import crops as crops_module
from dr_plugins.transforms.kernels import pil, tensor, tensor_geometry
from dr_plugins.transforms.kernels import pillow_order as order_module
from dr_plugins.transforms.kernels.crop_resize import crop_resize
from dr_plugins.transforms.kernels.crops import make_crops, resample_plain
from dr_plugins.transforms.kernels.pillow_order import pillow_order
from dr_plugins.transforms.kernels.resampling import resampling_taps
from tests.kernels import compile_kernel

INTERPOLATIONS = ["nearest", "bilinear", "bicubic"]


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    """The Triton kernel, run by Triton's interpreter, which reads the variable on decoration."""
    pytest.importorskip("triton")
    spec = importlib.util.find_spec("dr_plugins.transforms.kernels.crop_resize_triton")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    return module


# --- the tables, against torch --------------------------------------------------------------------


def resampled(lines: np.ndarray, length: int, size: int, interpolation: str) -> np.ndarray:
    """Resample the first axis of ``[length, n]`` by the table, in int64."""
    starts, weights, shift = resampling_taps(length, size, interpolation)
    total = np.full((size, lines.shape[1]), 1 << (shift - 1), np.int64)
    for tap in range(weights.shape[1]):
        neighbours = lines[np.minimum(starts + tap, length - 1)].astype(np.int64)
        total += weights[:, tap, None] * neighbours
    return (total >> shift).clip(0, 255)


def disagreements(rng: np.random.Generator, count: int, most: int) -> list[object]:
    """Lengths and sizes where rows or columns of noise are not what torch makes of them."""
    wrong: list[object] = []
    for number in range(count):
        length, size = (int(np.exp(rng.uniform(0, np.log(most)))) for _ in range(2))
        interpolation = ["bilinear", "bicubic"][number % 2]
        lines = rng.integers(0, 256, (length, 96), np.uint8)
        if number % 3 == 0:  # extremes, where bicubic overshoots
            lines = np.where(lines > 127, 255, 0).astype(np.uint8)
        rows = torch.from_numpy(lines.reshape(1, length, 32, 3)).permute(0, 3, 1, 2)
        options = {"mode": interpolation, "antialias": True}
        vertical = F.interpolate(rows, (size, 32), **options)[0].permute(1, 2, 0)
        columns = torch.from_numpy(lines.reshape(length, 32, 3).swapaxes(0, 1).copy())
        columns = columns[None].permute(0, 3, 1, 2)
        horizontal = F.interpolate(columns, (32, size), **options)[0].permute(2, 1, 0)
        expected = resampled(lines, length, size, interpolation)
        for found in (vertical, horizontal):
            if not np.array_equal(found.reshape(size, -1).numpy(), expected):
                wrong.append((length, size, interpolation))
    return wrong


def test_the_tables_are_torchs() -> None:
    assert disagreements(np.random.default_rng(0), 1500, 600) == []
    assert disagreements(np.random.default_rng(2), 50, 12_000) == []


_DISAGREE = """
import numpy, torch
from tests.dr_plugins.transforms.test_crop_resize import disagreements
torch.set_num_threads(1)
print(torch.backends.cpu.get_cpu_capability(), disagreements(numpy.random.default_rng(3), 600, 500),
      sep="|")
"""


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_the_tables_are_torchs_whatever_the_cpu_can_do(capability: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", _DISAGREE],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=True,
    )
    name, _, wrong = found.stdout.strip().partition("|")
    assert wrong == "[]"
    assert capability != "default" or name in ("DEFAULT", "NO AVX", "DEFAULT/NO AVX")


# --- crops ----------------------------------------------------------------------------------------


@st.composite
def crops(draw: st.DrawFn):  # type: ignore[no-untyped-def]
    """Images in any layout, boxes in them, a size and an interpolation."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = []
    for _ in range(draw(st.integers(1, 3))):
        height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        if draw(st.booleans()):
            pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
        image = tensor.from_image(pixels)
        images.append(image.contiguous() if draw(st.booleans()) else image)
    which, boxes = [], []
    for _ in range(draw(st.integers(1, 4))):
        index = draw(st.integers(0, len(images) - 1))
        sides = [draw(st.integers(1, side)) for side in images[index].shape[1:]]
        corner = [
            draw(st.integers(0, whole - side))
            for whole, side in zip(images[index].shape[1:], sides, strict=True)
        ]
        which.append(index)
        boxes.append((*corner, *sides))
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return images, which, np.array(boxes), size, draw(st.sampled_from(INTERPOLATIONS))


def straight(images, which, boxes, size, interpolation):  # type: ignore[no-untyped-def]
    columns_first = np.zeros(len(boxes), bool)
    return make_crops(images, which, boxes, size, interpolation, "tensor", columns_first)


def pillows(images, which, boxes, size, interpolation):  # type: ignore[no-untyped-def]
    order = pillow_order()
    assert order is not None
    columns_first = order(boxes[:, 2:], size)
    return make_crops(images, which, boxes, size, interpolation, "pil", columns_first)


def one_by_one(images, which, boxes, size, interpolation):  # type: ignore[no-untyped-def]
    views = [
        tensor.resize(tensor.crop(images[index], *box), size, interpolation)
        for index, box in zip(which, boxes.tolist(), strict=True)
    ]
    return torch.stack(views)


def one_by_one_in_pillow(images, which, boxes, size, interpolation):  # type: ignore[no-untyped-def]
    views = []
    for index, box in zip(which, boxes.tolist(), strict=True):
        image = Image.fromarray(images[index].permute(1, 2, 0).contiguous().numpy())
        view = pil.resize(pil.crop(image, *box), size, interpolation)
        views.append(torch.from_numpy(np.array(view)).permute(2, 0, 1))
    return torch.stack(views)


@settings(max_examples=200)
@given(crops())
def test_many_crops_are_those_made_one_by_one(case) -> None:  # type: ignore[no-untyped-def]
    assert torch.equal(crop_resize(*case), one_by_one(*case))


@settings(max_examples=200)
@given(crops())
def test_many_crops_are_those_that_pillow_makes(case) -> None:  # type: ignore[no-untyped-def]
    assert torch.equal(crop_resize(*case, "pil"), one_by_one_in_pillow(*case))


@settings(max_examples=5)
@given(case=crops())
def test_triton_gives_the_same(triton: ModuleType, case) -> None:  # type: ignore[no-untyped-def]
    assert torch.equal(triton.resample_triton(straight(*case)), one_by_one(*case))
    assert torch.equal(triton.resample_triton(pillows(*case)), one_by_one_in_pillow(*case))


def test_which_way_pillow_goes_first_is_known_for_all_sizes() -> None:
    """Tall, wide, enlarged and reduced; the shares in which either way goes first are not small."""
    rng, columns_first = np.random.default_rng(0), 0
    order = pillow_order()
    assert order is not None
    for number in range(600):
        before = tuple(rng.integers(1, 90, 2).tolist())
        after = tuple(rng.integers(1, 40, 2).tolist())
        interpolation = ["bilinear", "bicubic"][number % 2]
        assert order_module._is_pillows(order, before, after, interpolation), (before, after)
        columns_first += int(order(np.array([before]), after)[0])
    assert 100 < columns_first < 500 or order is order_module._rows_first


def test_a_pillow_of_another_kind_is_left_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resize = Image.Image.resize

    def rounded(image: Image.Image, *args: object) -> Image.Image:
        return resize(image, *args).point(lambda level: level & ~1)  # type: ignore[arg-type]

    pillow_order.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "resize", rounded)
        assert pillow_order() is None
        assert not Policy.load("rrc", backend="pil").has_batches
        assert Policy.load("rrc", backend="tensor").has_batches
    assert "resizes in an unknown way" in caplog.text
    pillow_order.cache_clear()
    assert Policy.load("rrc", backend="pil").has_batches


def test_large_crops_are_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = tensor.from_image(rng.integers(0, 256, (50, 60, 3), np.uint8))
    boxes = np.array([[0, 0, 50, 60], [3, 4, 5, 6], [10, 0, 40, 1], [0, 0, 1, 60], [1, 2, 30, 50]])
    case = [image], [0] * 5, boxes, (20, 24), "bilinear"
    monkeypatch.setattr(crops_module, "_CHUNK", 2 * 50 * 24 * 3)
    pieces = []
    some = crops_module._resample_some
    monkeypatch.setattr(
        crops_module, "_resample_some", lambda *a: pieces.append(some(*a)) or pieces[-1]
    )
    assert torch.equal(resample_plain(straight(*case)), one_by_one(*case))
    assert [len(piece) for piece in pieces] == [2, 2, 1]


@pytest.mark.parametrize("box", [(0, 0, 5, 4), (0, -1, 1, 1), (1, 1, 0, 2)])
def test_a_box_of_another_image_is_refused(box: tuple[int, ...]) -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"does not lie within the image of 4x4 pixels"):
        crop_resize([image], [0], np.array([box]), (2, 2), "bilinear")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(7, 31), (40, 20), (1, 1), (23, 20)])
def test_devices_without_torchs_own_resizing(interpolation: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    batch = torch.from_numpy(rng.integers(0, 256, (2, 2, 3, 23, 31), np.uint8))
    found = tensor_geometry._resize_anywhere(batch, size, interpolation)
    expected = tensor.resize(batch, size, interpolation)
    assert torch.equal(found.reshape(expected.shape), expected)


# --- whole policies -------------------------------------------------------------------------------

CONFIGS = {
    "rrc": {},
    "cifar": {},
    "two crops": {"random_crop": {"size": 40, "padding": 3}, "resize": {"size": [44, 50]}},
    "no crop": {"random_resized_crop": None, "center_crop": {"size": 30}, "resize": {"size": 24}},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("backend", ["pil", "tensor"])
def test_a_policy_begins_many_views_as_it_begins_one(name: str, backend: str) -> None:
    preset = name if name == "cifar" else "rrc"
    config = {**Policy.load(preset, size=24, backend=backend).to_config(), **CONFIGS[name]}
    policy = Policy.from_config(config)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((37, 52), (60, 45))]
    which = [0, 1, 1, 0, 1, 0]
    params = [policy.sample(rng, pictures[i].shape[:2]).view for i in which]
    images = [tensor.from_image(picture) for picture in pictures]
    found = policy.crop_batch(images, which, params)
    expected = [policy.crop(pictures[i], p) for i, p in zip(which, params, strict=True)]
    assert torch.equal(found, torch.stack(expected))
    assert found.shape == (6, 3, *policy.view_size)


@pytest.mark.parametrize("weights", ["*i16", "*i32"])
def test_the_triton_kernel_compiles_for_a_gpu(weights: str) -> None:
    module = pytest.importorskip("dr_plugins.transforms.kernels.crop_resize_triton")
    types = {"pixels": "*u8", "origins": "*i64", "columns_first": "*i1", "result": "*u8"}
    for axis in (1, 2):
        arrays = ("lengths", "steps", "taps", "shifts", "starts_at", "weights_at", "starts")
        types |= {f"{name}_{axis}": "*i32" for name in arrays} | {f"weights_{axis}": weights}
    types |= dict.fromkeys(("height", "width"), "i32")
    assert ".target sm_90" in compile_kernel(module._resample, types, {"block": 256})


# --- GPUs -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("backend", ["pil", "tensor"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_gpu_gives_the_pixels_of_the_cpu(backend: str, interpolation: str) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((375, 500), (1200, 90))]
    images = [tensor.from_image(picture) for picture in pictures]
    which = rng.integers(0, 2, 300).tolist()
    sides = np.array([images[i].shape[1:] for i in which])
    lengths = (sides * rng.uniform(0.01, 1, sides.shape)).astype(int) + 1
    corners = (rng.uniform(0, 1, sides.shape) * (sides - lengths + 1)).astype(int)
    boxes = np.concatenate([corners, lengths], 1)
    case = which, boxes, (224, 224), interpolation
    expected = (one_by_one_in_pillow if backend == "pil" else one_by_one)(images, *case)
    on_gpu = [image.cuda() for image in images]
    make = pillows if backend == "pil" else straight
    assert torch.equal(crop_resize(on_gpu, *case, backend).cpu(), expected)
    assert torch.equal(resample_plain(make(on_gpu, *case)).cpu(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_uses_the_triton_kernel() -> None:
    pytest.importorskip("triton")
    assert crop_resize_module._is_usable(torch.device("cuda", 0))
