from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment
from torchvision.transforms.autoaugment import _apply_op  # an oracle, in tests only

from dr_plugins.transforms import RandAugment as OurRandAugment
from dr_plugins.transforms.operations import OPERATIONS, operation_names

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def torchvision_space(num_levels, size):
    return RandAugment()._augmentation_space(num_levels, size)


def random_pixels(size, seed, low, high):
    return np.random.default_rng(seed).integers(low, high, (*size, 3)).astype(np.uint8)


def test_operations_are_those_of_torchvision():
    space = torchvision_space(31, (224, 224))

    assert tuple(space) == operation_names()[: len(space)]
    assert OurRandAugment().operations == tuple(space)
    assert all(operation.signed == space[operation.name][1] for operation in OPERATIONS)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
def test_magnitudes_are_those_of_torchvision(num_levels, size):
    space = torchvision_space(num_levels, size)
    for operation in OPERATIONS:
        values = space[operation.name][0].expand(num_levels).tolist()
        ours = [operation.magnitude(level, num_levels, size) for level in range(num_levels)]
        assert ours == values
        assert all(type(value) is float for value in ours)


def test_magnitudes_by_hand():
    by_name = {operation.name: operation.magnitude(9, 31, (200, 331)) for operation in OPERATIONS}

    assert by_name["ShearX"] == np.float32(0.09)
    assert by_name["TranslateX"] == 45.0
    assert by_name["Rotate"] == 9.0
    assert by_name["Posterize"] == 7.0
    assert by_name["Solarize"] == 178.5
    assert by_name["Identity"] == by_name["Equalize"] == 0.0


@settings(max_examples=60, deadline=None)
@given(
    SIZES,
    st.integers(0, 2**32 - 1),
    st.sampled_from([(0, 256), (90, 91), (100, 104), (0, 2), (250, 256)]),
    st.integers(0, 30),
    st.sampled_from([1.0, -1.0]),
)
def test_both_backends_repeat_torchvision(size, seed, levels, level, sign):
    values = random_pixels(size, seed, *levels)
    image = Image.fromarray(values)
    planar = torch.from_numpy(values).permute(2, 0, 1)
    for operation in OPERATIONS:
        name = operation.name
        strength = operation.magnitude(level, 31, size) * (sign if operation.signed else 1.0)
        oracle = _apply_op(image, name, strength, InterpolationMode.NEAREST, None)

        replayed = operation.apply(image, strength)
        replayed_tensor = operation.apply(planar, strength)

        np.testing.assert_array_equal(np.asarray(replayed), np.asarray(oracle), name)
        np.testing.assert_array_equal(
            replayed_tensor.permute(1, 2, 0).numpy(), np.asarray(oracle), name
        )
    np.testing.assert_array_equal(np.asarray(image), values)
    np.testing.assert_array_equal(planar.permute(1, 2, 0).numpy(), values)


@pytest.mark.parametrize("operation", OPERATIONS, ids=operation_names())
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_training_size(operation, sign):
    size = (224, 224)
    values = random_pixels(size, OPERATIONS.index(operation), 0, 256)
    strength = operation.magnitude(9, 31, size) * (sign if operation.signed else 1.0)
    image, name = Image.fromarray(values), operation.name
    oracle = np.asarray(_apply_op(image, name, strength, InterpolationMode.NEAREST, None))

    ours = operation.apply(torch.from_numpy(values).permute(2, 0, 1), strength)

    np.testing.assert_array_equal(np.asarray(operation.apply(image, strength)), oracle)
    np.testing.assert_array_equal(ours.permute(1, 2, 0).numpy(), oracle)


@pytest.mark.parametrize(("level", "num_levels"), [(31, 31), (-1, 31), (0, 1)])
def test_level_out_of_range(level, num_levels):
    with pytest.raises(ValueError, match="level"):
        OPERATIONS[5].magnitude(level, num_levels, (2, 2))


@pytest.mark.parametrize("operation", OPERATIONS, ids=operation_names())
def test_the_matrix_says_where_each_pixel_comes_from(operation):
    height, width = 40, 56
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.full_like(rows, 255)], -1).astype(np.uint8)
    strength = operation.magnitude(9, 31, (height, width))
    moved = np.asarray(operation.apply(Image.fromarray(image), strength))
    if operation.matrix is None:
        assert operation.apply(Image.fromarray(image), strength).size == (width, height)
        return
    a, b, c, d, e, f = operation.matrix(strength, height, width)
    x, y = columns + 0.5, rows + 0.5
    sources = np.stack([np.floor(d * x + e * y + f), np.floor(a * x + b * y + c)], -1)
    inside = moved[..., 2] == 255  # the rest is black

    assert inside.mean() > 0.5
    np.testing.assert_array_equal(moved[inside][:, :2], sources[inside])


def test_a_policy_says_which_operations_it_draws_from():
    few = OurRandAugment(num_ops=3, operations=("Rotate", "Equalize"))
    rng = np.random.default_rng(0)
    codes = {code & 0x7F for _ in range(50) for code in few.sample(rng, (8, 8))}

    assert {OPERATIONS[code].name for code in codes} == {"Rotate", "Equalize"}
    for wrong in (("Rotate", "Melt"), ()):
        with pytest.raises(ValueError, match="operations"):
            OurRandAugment(operations=wrong)
