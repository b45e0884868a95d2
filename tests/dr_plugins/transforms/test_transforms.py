from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as T  # an oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as F

from dr_plugins.errors import PolicyError
from dr_plugins.transforms import (
    CenterCrop,
    CutMix,
    Mixup,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from dr_plugins.transforms.operations import OPERATIONS, operation_names
from tests.tiny import photograph

SIDES = st.one_of(st.integers(1, 12), st.integers(1, 3000))
SIZES = st.tuples(SIDES, SIDES)
SEEDS = st.integers(0, 2**32)
PHOTO_SIZES = [(375, 500), (500, 333), (90, 400), (33, 31)]


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image)


# --- boxes ----------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(size=SIZES, seed=SEEDS, scale=st.sampled_from([(0.08, 1.0), (1e-6, 1e-5), (0.9, 1.0)]))
def test_crops_lie_inside_the_image(
    size: tuple[int, int], seed: int, scale: tuple[float, float]
) -> None:
    rng = np.random.default_rng(seed)
    crop = RandomResizedCrop(32, scale)
    for _ in range(20):
        top, left, height, width = crop.sample(rng, size)
        assert 0 <= top < top + height <= size[0]
        assert 0 <= left < left + width <= size[1]
        assert all(type(v) is int for v in (top, left, height, width))


@settings(max_examples=300)
@given(size=SIZES, seed=SEEDS)
def test_erased_boxes_lie_inside_and_never_cover_all(size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        top, left, height, width = RandomErasing(p=1.0).sample(rng, size)
        if height == 0:
            assert (top, left, height, width) == (0, 0, 0, 0)
            continue
        assert 0 <= top < top + height <= size[0]
        assert 0 <= left < left + width <= size[1]
        assert height < size[0]
        assert width < size[1]


@settings(max_examples=200)
@given(size=SIZES, seed=SEEDS, alpha=st.sampled_from([0.1, 1.0, 8.0]))
def test_cutmix_boxes_lie_inside_the_view(size: tuple[int, int], seed: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        top, left, bottom, right = CutMix(alpha).sample(rng, size)
        if (top, left, bottom, right) != CutMix.unmixed:
            assert 0 <= top < bottom <= size[0]
            assert 0 <= left < right <= size[1]


@settings(max_examples=200)
@given(
    side=st.integers(1, 60), padding=st.integers(0, 20), seed=SEEDS, room=st.tuples(SIDES, SIDES)
)
def test_padded_crops_lie_inside(side: int, padding: int, seed: int, room: tuple[int, int]) -> None:
    size = (max(side - 2 * padding, 0) + room[0], max(side - 2 * padding, 0) + room[1])
    rng = np.random.default_rng(seed)
    for _ in range(10):
        top, left = RandomCrop(side, padding).sample(rng, size)
        assert 0 <= top <= size[0] + 2 * padding - side
        assert 0 <= left <= size[1] + 2 * padding - side


def test_a_crop_that_does_not_fit() -> None:
    with pytest.raises(PolicyError, match=r"crop of 30 pixels does not fit an image of 20x50"):
        RandomCrop(30, 4).sample(np.random.default_rng(0), (20, 50))


# --- sampling against torchvision -----------------------------------------------------------------


@pytest.mark.parametrize("size", PHOTO_SIZES)
def test_crop_statistics_are_those_of_torchvision(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    blank = torch.empty(3, *size)
    crop = RandomResizedCrop(8)
    ours = np.array([crop.sample(rng, size) for _ in range(4000)], float)
    theirs = np.array(
        [
            T.RandomResizedCrop.get_params(blank, list(crop.scale), list(crop.ratio))
            for _ in range(4000)
        ],
        float,
    )
    _compare(ours, theirs, size)


@pytest.mark.parametrize("size", [(224, 224), (40, 60)])
def test_erasing_statistics_are_those_of_torchvision(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    blank = torch.empty(3, *size)
    erase = RandomErasing(p=1.0)
    ours = np.array([erase.sample(rng, size) for _ in range(3000)], float)
    theirs = np.array(
        [
            T.RandomErasing.get_params(blank, erase.scale, erase.ratio, [0.0])[:4]
            for _ in range(3000)
        ],
        float,
    )
    nothing = theirs[:, 2] == size[0]  # torchvision erases the image with itself
    assert (ours[:, 2] == 0).mean() == pytest.approx(nothing.mean(), abs=0.01)
    _compare(ours[ours[:, 2] > 0], theirs[~nothing], size)


def _compare(ours: np.ndarray, theirs: np.ndarray, size: tuple[int, int]) -> None:
    """Means and deviations of position, sides, area and ratio agree within a few percent."""

    def statistics(boxes: np.ndarray) -> np.ndarray:
        top, left, height, width = boxes.T
        values = [
            (top + height / 2) / size[0],
            (left + width / 2) / size[1],
            height / size[0],
            width / size[1],
            height * width / (size[0] * size[1]),
            np.log(width / height) + 4,  # shifted, so that a share of it makes sense
        ]
        return np.array([[v.mean(), v.std()] for v in values])

    assert statistics(ours) == pytest.approx(statistics(theirs), rel=0.06)


@settings(max_examples=100)
@given(size=SIZES)
def test_the_crop_of_last_resort_is_that_of_torchvision(size: tuple[int, int]) -> None:
    # An area larger than the image never fits.
    crop = RandomResizedCrop(8, scale=(50.0, 60.0))
    theirs = T.RandomResizedCrop.get_params(
        torch.empty(3, *size, device="meta"), list(crop.scale), list(crop.ratio)
    )
    if theirs[2] > 0 and theirs[3] > 0:  # torchvision's is empty on images 1 pixel wide
        assert crop.sample(np.random.default_rng(0), size) == tuple(theirs)


def test_flips_and_operations_are_uniform() -> None:
    rng = np.random.default_rng(2)
    flips = [RandomHorizontalFlip(0.3).sample(rng, (8, 8)) for _ in range(5000)]
    assert set(flips) == {0, 1}
    assert np.mean(flips) == pytest.approx(0.3, abs=0.02)

    codes = np.array([RandAugment(num_ops=3).sample(rng, (8, 8)) for _ in range(7000)])
    operations, counts = np.unique(codes & 0x7F, return_counts=True)
    assert operations.tolist() == list(range(14))
    assert counts == pytest.approx([1500] * 14, rel=0.1)
    for operation in range(len(OPERATIONS)):
        negative = codes[codes & 0x7F == operation] >= 0x80
        expected = 0.5 if OPERATIONS[operation].signed else 0.0
        assert negative.mean() == pytest.approx(expected, abs=0.05)
    skipped = [RandAugment(p=0.25).sample(rng, (8, 8)) == (0, 0) for _ in range(4000)]
    assert np.mean(skipped) == pytest.approx(0.75 + 0.25 / 14**2, abs=0.02)


def test_padded_crops_are_uniform() -> None:
    rng = np.random.default_rng(3)
    draws = np.array([RandomCrop(32, 4).sample(rng, (32, 32)) for _ in range(9000)])
    assert draws.min() == 0
    assert draws.max() == 8
    for axis in (0, 1):
        assert np.bincount(draws[:, axis]) == pytest.approx([1000] * 9, rel=0.12)


# --- applying against torchvision -----------------------------------------------------------------


@settings(max_examples=60)
@given(height=st.integers(1, 70), width=st.integers(1, 70), target=st.integers(1, 50))
def test_resize_and_centre_crop_are_those_of_torchvision(
    height: int, width: int, target: int
) -> None:
    image = photograph(height, height, width)
    for interpolation, mode in (
        ("bilinear", T.InterpolationMode.BILINEAR),
        ("bicubic", T.InterpolationMode.BICUBIC),
        ("nearest", T.InterpolationMode.NEAREST),
    ):
        ours = Resize(target, interpolation).apply(image, None)
        assert np.array_equal(pixels(ours), pixels(F.resize(image, target, mode)))
        assert Resize(target).output_size((height, width)) == (ours.height, ours.width)
    both = Resize((target, 7)).apply(image, None)
    assert np.array_equal(pixels(both), pixels(F.resize(image, [target, 7])))
    ours = CenterCrop(target).apply(image, None)
    assert np.array_equal(pixels(ours), pixels(F.center_crop(image, target)))


@settings(max_examples=60)
@given(height=st.integers(4, 60), width=st.integers(4, 60), seed=SEEDS)
def test_crops_flip_and_erasing_are_those_of_torchvision(
    height: int, width: int, seed: int
) -> None:
    image = photograph(seed % 100, height, width)
    before = image.tobytes()
    rng = np.random.default_rng(seed)

    crop = RandomResizedCrop(12)
    box = crop.sample(rng, (height, width))
    expected = F.resized_crop(image, *box, [12, 12])
    assert np.array_equal(pixels(crop.apply(image, box)), pixels(expected))

    padded = RandomCrop(4, 3)
    top, left = padded.sample(rng, (height, width))
    expected = F.crop(F.pad(image, [3]), top, left, 4, 4)
    assert np.array_equal(pixels(padded.apply(image, (top, left))), pixels(expected))

    flip = RandomHorizontalFlip()
    assert np.array_equal(pixels(flip.apply(image, 1)), pixels(image)[:, ::-1])
    assert np.array_equal(pixels(flip.apply(image, 0)), pixels(image))

    erase = RandomErasing(p=1.0)
    box = erase.sample(rng, (height, width))
    expected = pixels(image).copy()
    expected[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = 0
    assert np.array_equal(pixels(erase.apply(image, box)), expected)
    assert image.tobytes() == before


def test_operations_are_applied_in_order_with_their_signs() -> None:
    image = photograph(5, 40, 30)
    code = operation_names().index
    ours = RandAugment().apply(image, (code("Rotate") | 0x80, code("Posterize")))
    expected = F.posterize(F.rotate(image, -9.0), 7)
    assert np.array_equal(pixels(ours), pixels(expected))
    ours = RandAugment().apply(image, (code("Posterize"), code("Rotate")))
    assert np.array_equal(pixels(ours), pixels(F.rotate(F.posterize(image, 7), 9.0)))
    assert np.array_equal(pixels(RandAugment().apply(image, (0, 0))), pixels(image))


def test_translations_follow_the_size_of_the_view() -> None:
    image = photograph(6, 33, 90)
    along_x, along_y = int(150 / 331 * 90 * 9 / 30), int(150 / 331 * 33 * 9 / 30)
    assert (along_x, along_y) == (12, 4)
    expected = np.zeros_like(pixels(image))
    expected[:, along_x:] = pixels(image)[:, :-along_x]
    ours = RandAugment(1).apply(image, (operation_names().index("TranslateX"),))
    assert np.array_equal(pixels(ours), expected)
    expected = np.zeros_like(pixels(image))
    expected[:-along_y] = pixels(image)[along_y:]
    ours = RandAugment(1).apply(image, (operation_names().index("TranslateY") | 0x80,))
    assert np.array_equal(pixels(ours), expected)


# --- mixing ---------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(lam=st.floats(0, 1), seed=SEEDS)
def test_mixup_is_the_documented_formula_and_within_half_a_level(lam: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 3, 5, 4), np.uint8)
    a.flat[:4], b.flat[:4] = (0, 255, 0, 255), (0, 255, 255, 0)
    ours = Mixup().apply(torch.from_numpy(a), torch.from_numpy(b), lam).numpy()
    weight = round(65536 * lam)
    for mixed, x, y in zip(ours.flat, a.flat, b.flat, strict=True):
        assert int(mixed) == (int(x) * weight + int(y) * (65536 - weight) + 32768) >> 16
    exact = lam * a.astype(np.float64) + (1 - lam) * b.astype(np.float64)
    # The weight itself is rounded to 16 bits.
    assert np.abs(ours - exact).max() <= 0.5 + 255 / 2**17 + 1e-9


def test_mixup_of_equal_views_changes_nothing() -> None:
    view = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1)
    for lam in (0.0, 1e-9, 0.3, 0.5, 1 - 1e-9, 1.0):
        assert torch.equal(Mixup().apply(view, view, lam), view)


def test_mixing_does_not_touch_its_input() -> None:
    a, b = (torch.full((3, 4, 4), v, dtype=torch.uint8) for v in (10, 200))
    mixed = CutMix().apply(a, b, (1, 0, 3, 2))
    assert (a == 10).all()
    assert (b == 200).all()
    assert (mixed[:, 1:3, 0:2] == 200).all()
    assert int((mixed == 200).sum()) == 3 * 4
    assert torch.equal(CutMix().apply(a, b, CutMix.unmixed), a)
    Mixup().apply(a, b, 0.4)
    assert (a == 10).all()
    assert (b == 200).all()


@pytest.mark.parametrize(("alpha", "div_by", "p"), [(1.0, 2.0, 0.5), (0.2, 1.0, 1.0), (4, 3, 0.8)])
def test_mixup_weights(alpha: float, div_by: float, p: float) -> None:
    rng = np.random.default_rng(4)
    draws = np.array([Mixup(alpha, div_by, p).sample(rng, (8, 8)) for _ in range(6000)])
    mixed = draws[draws != 1.0]
    assert len(mixed) / len(draws) == pytest.approx(p, abs=0.02)
    assert mixed.max() <= 1 / div_by
    assert mixed.mean() == pytest.approx(0.5 / div_by, rel=0.05)
    deviation = 0.5 / math.sqrt(2 * alpha + 1) / div_by
    assert mixed.std() == pytest.approx(deviation, rel=0.05)


def test_cutmix_areas() -> None:
    # Without clipping at the border the box covers 1 - lam, lam ~ U(0, 1), of the view; the clipped
    # share is compared with the same process written as in the paper.
    rng, other = np.random.default_rng(5), random.Random(5)
    size = (60, 90)

    def paper() -> float:
        cut = math.sqrt(1 - other.random())
        area = 1.0
        for side in size:
            centre, half = other.randrange(side), int(side * cut) // 2
            area *= (min(centre + half, side) - max(centre - half, 0)) / side
        return area

    boxes = np.array([CutMix().sample(rng, size) for _ in range(8000)])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (size[0] * size[1])
    theirs = np.array([paper() for _ in range(8000)])
    assert areas.mean() == pytest.approx(theirs.mean(), rel=0.03)
    assert areas.std() == pytest.approx(theirs.std(), rel=0.03)


@pytest.mark.parametrize("mixing", [Mixup(alpha=0.0), CutMix(alpha=0.0), Mixup(p=0), CutMix(p=0)])
def test_mixing_that_is_off(mixing: Mixup | CutMix) -> None:
    rng = np.random.default_rng(6)
    assert {mixing.sample(rng, (9, 9)) for _ in range(50)} == {mixing.unmixed}


# --- hyper-parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Resize, {"size": 0}, "size is 0"),
        (Resize, {"size": 8.0}, r"size is 8\.0"),
        (Resize, {"size": (8, 0)}, "size is 0"),
        (Resize, {"size": (8, 8, 8)}, "too many values"),
        (Resize, {"size": 8, "interpolation": "lanczos"}, "interpolation is 'lanczos'"),
        (CenterCrop, {"size": "8"}, "size is '8'"),
        (RandomCrop, {"size": 8, "padding": -1}, "padding is -1"),
        (RandomResizedCrop, {"size": -8}, "size is -8"),
        (RandomResizedCrop, {"size": 8, "scale": (1.0, 0.1)}, "scale is"),
        (RandomResizedCrop, {"size": 8, "scale": (0.1,)}, "scale is"),
        (RandomResizedCrop, {"size": 8, "ratio": (0.0, 1.0)}, "ratio is"),
        (RandomResizedCrop, {"size": 8, "interpolation": "box"}, "interpolation is 'box'"),
        (RandomHorizontalFlip, {"p": 1.1}, r"p is 1\.1"),
        (RandomHorizontalFlip, {"p": float("nan")}, "p is nan"),
        (RandAugment, {"num_ops": 0}, "num_ops is 0"),
        (RandAugment, {"magnitude": 31}, "magnitude is 31"),
        (RandAugment, {"magnitude": -1}, "magnitude is -1"),
        (RandAugment, {"magnitude": 9.5}, r"magnitude is 9\.5"),
        (RandAugment, {"num_magnitude_bins": 1, "magnitude": 0}, "num_magnitude_bins is 1"),
        (RandAugment, {"p": -0.1}, r"p is -0\.1"),
        (RandomErasing, {"p": 2}, "p is 2"),
        (RandomErasing, {"scale": (0.3, 0.2)}, "scale is"),
        (RandomErasing, {"ratio": (1.0, float("inf"))}, "ratio is"),
        (Mixup, {"alpha": -1}, "alpha is -1"),
        (Mixup, {"div_by": 0.5}, r"div_by is 0\.5"),
        (Mixup, {"p": 1.5}, r"p is 1\.5"),
        (CutMix, {"alpha": float("nan")}, "alpha is nan"),
        (CutMix, {"p": -1}, "p is -1"),
    ],
)
def test_values_out_of_range(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_images_of_other_modes_are_refused() -> None:
    with pytest.raises(TypeError, match="mode 'L'"):
        Resize(4).apply(Image.new("L", (9, 9)), None)
