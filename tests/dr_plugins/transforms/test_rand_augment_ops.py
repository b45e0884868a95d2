from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment
from torchvision.transforms.autoaugment import _apply_op  # an oracle, in tests only

from dr_plugins.transforms.rand_augment_ops import (
    OPERATIONS,
    SIGNED,
    apply_operation,
    magnitude,
)

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def torchvision_space(num_levels, size):
    return RandAugment()._augmentation_space(num_levels, size)


def random_pixels(size, seed, low, high):
    return np.random.default_rng(seed).integers(low, high, (*size, 3)).astype(np.uint8)


def test_operations_are_those_of_torchvision():
    space = torchvision_space(31, (224, 224))

    assert tuple(space) == OPERATIONS
    assert {i for i, name in enumerate(OPERATIONS) if space[name][1]} == SIGNED


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
def test_magnitudes_are_those_of_torchvision(num_levels, size):
    space = torchvision_space(num_levels, size)
    for op_index, name in enumerate(OPERATIONS):
        values = space[name][0].expand(num_levels).tolist()
        ours = [magnitude(op_index, level, num_levels, size) for level in range(num_levels)]
        assert ours == values
        assert all(type(value) is float for value in ours)


def test_magnitudes_by_hand():
    by_name = {name: magnitude(i, 9, 31, (200, 331)) for i, name in enumerate(OPERATIONS)}

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
    for op_index, name in enumerate(OPERATIONS):
        strength = magnitude(op_index, level, 31, size) * (sign if op_index in SIGNED else 1.0)
        oracle = _apply_op(image, name, strength, InterpolationMode.NEAREST, None)

        replayed = apply_operation(image, op_index, strength)
        replayed_tensor = apply_operation(planar, op_index, strength)

        np.testing.assert_array_equal(np.asarray(replayed), np.asarray(oracle), name)
        np.testing.assert_array_equal(
            replayed_tensor.permute(1, 2, 0).numpy(), np.asarray(oracle), name
        )
    np.testing.assert_array_equal(np.asarray(image), values)
    np.testing.assert_array_equal(planar.permute(1, 2, 0).numpy(), values)


@pytest.mark.parametrize("op_index", range(len(OPERATIONS)))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_training_size(op_index, sign):
    size = (224, 224)
    values = random_pixels(size, op_index, 0, 256)
    strength = magnitude(op_index, 9, 31, size) * (sign if op_index in SIGNED else 1.0)
    image, name = Image.fromarray(values), OPERATIONS[op_index]
    oracle = np.asarray(_apply_op(image, name, strength, InterpolationMode.NEAREST, None))

    ours = apply_operation(torch.from_numpy(values).permute(2, 0, 1), op_index, strength)

    np.testing.assert_array_equal(np.asarray(apply_operation(image, op_index, strength)), oracle)
    np.testing.assert_array_equal(ours.permute(1, 2, 0).numpy(), oracle)


@pytest.mark.parametrize("op_index", [-1, 14])
def test_unknown_operation(op_index):
    with pytest.raises(ValueError, match=f"op_index is {op_index}"):
        magnitude(op_index, 0, 31, (2, 2))
    with pytest.raises(ValueError, match=f"op_index is {op_index}"):
        apply_operation(Image.new("RGB", (2, 2)), op_index, 0.0)


@pytest.mark.parametrize(("level", "num_levels"), [(31, 31), (-1, 31), (0, 1)])
def test_level_out_of_range(level, num_levels):
    with pytest.raises(ValueError, match="level"):
        magnitude(5, level, num_levels, (2, 2))
