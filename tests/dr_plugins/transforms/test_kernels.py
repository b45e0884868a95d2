from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from dr_plugins.transforms.kernels import kernels_for, pil, tensor, tensor_color
from dr_plugins.transforms.kernels.tensor_color import _blend

FUZZ = settings(max_examples=60, deadline=None)


@st.composite
def pixels(draw, max_side=70):
    """uint8 [height, width, 3] with few, many, or (nearly) equal levels."""
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low = draw(st.integers(0, 255))
    span = draw(st.sampled_from([0, 1, 3, 40, 255]))
    values = rng.integers(low, low + span + 1, (height, width, 3)).clip(0, 255)
    if draw(st.booleans()):
        values[..., draw(st.integers(0, 2))] = low
    return values.astype(np.uint8)


def as_pil(values):
    return Image.fromarray(values)


def as_tensor(values):
    return torch.from_numpy(values).permute(2, 0, 1)


def to_numpy(image):
    if isinstance(image, torch.Tensor):
        return image.permute(1, 2, 0).numpy()
    return np.asarray(image)


def check_same(name, values, *args, oracle=None):
    """Both backends, all layouts and batches agree, bit for bit, and leave their input alone."""
    image = as_pil(values)
    expected = to_numpy(getattr(pil, name)(image, *args))
    np.testing.assert_array_equal(np.asarray(image), values)
    if oracle is not None:
        np.testing.assert_array_equal(expected, np.asarray(oracle(image)))
    function = getattr(tensor, name)
    for layout in layouts(values):
        before = layout.clone()
        np.testing.assert_array_equal(to_numpy(function(layout, *args)), expected)
        assert torch.equal(layout, before)
    other = as_tensor(255 - values[::-1, ::-1])
    batch = torch.stack([as_tensor(values), other]).unsqueeze(1)
    result = function(batch, *args)
    assert result.dtype == torch.uint8
    assert result.shape[:-2] == (2, 1, 3)
    np.testing.assert_array_equal(to_numpy(result[0, 0]), expected)
    assert torch.equal(result[1, 0], function(other, *args))


def layouts(values):
    """Channels-last, contiguous, and cut out of a larger image."""
    image = as_tensor(values)
    larger = torch.nn.functional.pad(image.contiguous(), (2, 3, 1, 2), value=77)
    height, width = values.shape[:2]
    return image, image.contiguous(), larger[:, 1 : 1 + height, 2 : 2 + width]


def affine(image, translate=(0, 0), shear=(0.0, 0.0), center=None):
    """Torchvision's affine transformation, nearest pixel, black fill."""
    return F.affine(image, 0.0, list(translate), 1.0, list(shear), center=center)


@FUZZ
@given(pixels(), st.floats(-0.6, 0.6) | st.sampled_from([0.0, 0.5, -0.5, 1e-7]))
def test_shears(values, factor):
    degrees = float(np.degrees(np.arctan(factor)))

    check_same("shear_x", values, factor, oracle=lambda i: affine(i, (0, 0), (degrees, 0), [0, 0]))
    check_same("shear_y", values, factor, oracle=lambda i: affine(i, (0, 0), (0, degrees), [0, 0]))


@FUZZ
@given(pixels(), st.integers(-80, 80))
def test_translations(values, distance):
    check_same("translate_x", values, distance, oracle=lambda i: affine(i, (distance, 0)))
    check_same("translate_y", values, distance, oracle=lambda i: affine(i, (0, distance)))


@FUZZ
@given(pixels(), st.floats(-400, 400) | st.sampled_from([0, 90, 180, 270, -90, 360, 30, 1e-14]))
def test_rotate(values, degrees):
    check_same("rotate", values, degrees, oracle=lambda i: F.rotate(i, degrees))


@FUZZ
@given(pixels(), st.floats(0.0, 2.5) | st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.9]))
def test_enhancements(values, factor):
    for name in ("brightness", "saturation", "contrast", "sharpness"):
        function = getattr(F, f"adjust_{name}")
        check_same(f"adjust_{name}", values, factor, oracle=lambda i, f=function: f(i, factor))


@FUZZ
@given(pixels(), st.integers(1, 8), st.floats(-1, 257) | st.integers(0, 256))
def test_posterize_and_solarize(values, bits, threshold):
    check_same("posterize", values, bits, oracle=lambda i: F.posterize(i, bits))
    check_same("solarize", values, threshold, oracle=lambda i: F.solarize(i, threshold))


@FUZZ
@given(pixels())
def test_autocontrast_and_equalize(values):
    check_same("autocontrast", values, oracle=F.autocontrast)
    check_same("equalize", values, oracle=F.equalize)


def test_what_runs_on_other_devices_gives_the_same(monkeypatch):
    """On CPU tensors here, by the functions that a GPU would take."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, 20, 30), np.uint8)
    images = torch.from_numpy(noise)
    expected = tensor.equalize(images), tensor.autocontrast(images // 2 + 20)
    monkeypatch.setattr(tensor_color, "_lookup_on_cpu", tensor_color._lookup_anywhere)
    monkeypatch.setattr(tensor_color, "_counts_on_cpu", tensor_color._counts_anywhere)
    assert torch.equal(tensor.equalize(images), expected[0])
    assert torch.equal(tensor.autocontrast(images // 2 + 20), expected[1])


def test_autocontrast_of_every_pair_of_extremes():
    low, high = np.triu_indices(256, 1)
    pairs = np.stack([low, high], -1).astype(np.uint8)
    middles = ((low + high) // 2).astype(np.uint8)
    planes = np.concatenate([pairs, middles[:, None], (middles + 1)[:, None]], -1)
    images = planes[: len(planes) // 3 * 3].reshape(-1, 3, 2, 2)

    result = tensor.autocontrast(torch.from_numpy(images))

    for image, ours in zip(images[::16], result[::16], strict=True):
        expected = pil.autocontrast(as_pil(np.ascontiguousarray(image.transpose(1, 2, 0))))
        np.testing.assert_array_equal(to_numpy(ours), np.asarray(expected))


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.37, 0.73, 1.0, 1.27, 1.9, 10.0, -0.5])
def test_blending_of_every_pair_of_levels(factor):
    level = torch.arange(256, dtype=torch.uint8)
    first, second = level[:, None].expand(256, 256), level.expand(256, 256)
    one, other = (Image.fromarray(values.numpy().copy()) for values in (first, second))

    blended = _blend(first.float(), second, factor)

    np.testing.assert_array_equal(blended.numpy(), np.asarray(Image.blend(one, other, factor)))


@FUZZ
@given(pixels(), st.data())
def test_crop_and_erase(values, data):
    height, width = values.shape[:2]
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    erased = values.copy()
    erased[top : top + h, left : left + w] = 0

    check_same("crop", values, top, left, h, w, oracle=lambda i: F.crop(i, top, left, h, w))
    check_same("erase", values, top, left, h, w, oracle=lambda i: erased)


@FUZZ
@given(pixels(), st.integers(0, 9))
def test_pad_and_hflip(values, padding):
    check_same("pad", values, padding, oracle=lambda i: F.pad(i, padding))
    check_same("hflip", values, oracle=F.hflip)


@FUZZ
@given(pixels(), st.integers(1, 80), st.integers(1, 80))
def test_nearest_resize_is_exact(values, height, width):
    size = (height, width)
    check_same(
        "resize", values, size, "nearest",
        oracle=lambda i: F.resize(i, list(size), InterpolationMode.NEAREST),
    )  # fmt: skip


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@FUZZ
@given(pixels(), st.integers(1, 80), st.integers(1, 80))
def test_resize_differs_by_rounding_only(interpolation, values, height, width):
    # In the middle half of the range, where bicubic overshoot is not clipped.
    values = 64 + values // 2
    image, size = as_pil(values), (height, width)
    mode = InterpolationMode(interpolation)
    expected = np.asarray(pil.resize(image, size, interpolation))

    result = tensor.resize(as_tensor(values), size, interpolation)

    np.testing.assert_array_equal(
        expected, np.asarray(F.resize(image, list(size), mode, antialias=True))
    )
    assert np.abs(to_numpy(result).astype(int) - expected).max() <= 2


@FUZZ
@given(pixels(), st.integers(1, 80), st.integers(1, 80))
def test_bilinear_resize_differs_by_rounding_only_in_the_full_range(values, height, width):
    expected = np.asarray(pil.resize(as_pil(values), (height, width), "bilinear"))
    result = tensor.resize(as_tensor(values), (height, width), "bilinear")
    assert np.abs(to_numpy(result).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@FUZZ
@given(pixels(), st.integers(1, 80), st.integers(1, 80))
def test_resize_does_not_depend_on_layout_or_batch(interpolation, values, height, width):
    size = (height, width)
    expected = tensor.resize(as_tensor(values), size, interpolation)
    other = as_tensor(values[::-1].copy())
    batch = torch.stack([as_tensor(values), other]).unsqueeze(1)

    for layout in layouts(values):
        before = layout.clone()
        assert torch.equal(tensor.resize(layout, size, interpolation), expected)
        assert torch.equal(layout, before)
    resized = tensor.resize(batch, size, interpolation)
    assert resized.shape == (2, 1, 3, height, width)
    assert torch.equal(resized[0, 0], expected)
    assert torch.equal(resized[1, 0], tensor.resize(other, size, interpolation))


def test_resize_keeps_the_layout():
    interleaved = torch.randint(0, 256, (9, 8, 3), dtype=torch.uint8).permute(2, 0, 1)
    for image in (interleaved, interleaved[:, 1:8, 2:7]):
        assert tensor.resize(image, (4, 5), "bilinear").permute(1, 2, 0).is_contiguous()
    assert tensor.resize(interleaved.contiguous(), (4, 5), "bilinear").is_contiguous()


@FUZZ
@given(pixels())
def test_conversions(values):
    image = as_pil(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = tensor.from_image(image)

    np.testing.assert_array_equal(to_numpy(converted), values)
    assert converted.permute(1, 2, 0).is_contiguous()
    assert torch.equal(pil.to_uint8_chw(image), converted)
    assert pil.from_image(image) is image
    assert tensor.to_uint8_chw(converted) is converted
    assert pil.size(image) == tensor.size(converted) == values.shape[:2]
    converted.zero_()
    np.testing.assert_array_equal(np.asarray(image), values)


def test_backends_export_the_same_functions():
    functions = inspect.getmembers(pil, inspect.isfunction)
    public = {n for n, f in functions if f.__module__ == pil.__name__ and not n.startswith("_")}
    assert public == set(tensor.__all__)
    for name in public:
        ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (pil, tensor))
        assert list(ours) == list(theirs)


def test_kernels_for():
    assert kernels_for(Image.new("RGB", (2, 3))) is pil
    assert kernels_for(torch.zeros(5, 3, 2, 2, dtype=torch.uint8)) is tensor


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (Image.new("L", (2, 3)), "mode 'L'"),
        (torch.zeros(3, 2, 2), r"torch\.float32 tensor of shape \(3, 2, 2\)"),
        (torch.zeros(2, 2, 3, dtype=torch.uint8), r"shape \(2, 2, 3\)"),
        (np.zeros((2, 2, 3), np.uint8), r"numpy\.ndarray"),
    ],
)
def test_kernels_for_names_what_it_got(image, named):
    with pytest.raises(TypeError, match=named):
        kernels_for(image)


@pytest.mark.parametrize("name", ["crop", "erase"])
@pytest.mark.parametrize("box", [(-1, 0, 2, 2), (0, 0, 5, 2), (0, 4, 2, 2), (1, 1, 0, 2)])
def test_boxes_must_lie_within_the_image(name, box):
    image = torch.zeros(3, 4, 5, dtype=torch.uint8)
    for backend, view in ((tensor, image), (pil, Image.new("RGB", (5, 4)))):
        with pytest.raises(ValueError, match="4x5"):
            getattr(backend, name)(view, *box)


def test_bad_arguments_are_named():
    for backend, image in (
        (tensor, torch.zeros(3, 4, 5, dtype=torch.uint8)),
        (pil, Image.new("RGB", (5, 4))),
    ):
        with pytest.raises(ValueError, match="lanczos"):
            backend.resize(image, (2, 2), "lanczos")
        with pytest.raises(ValueError, match="bits"):
            backend.posterize(image, 0)
    with pytest.raises(ValueError, match="mode is 'L'"):
        tensor.from_image(Image.new("L", (2, 2)))
    with pytest.raises(ValueError, match="40000x1"):
        tensor.shear_x(torch.zeros(3, 40000, 1, dtype=torch.uint8), 0.9)
