"""The input convention: written, read back, and held against what a host does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from dr_models.checkpoints import (
    InputConvention,
    check_convention,
    read_convention,
    read_metadata,
)
from dr_models.checkpoints.convention import FORMAT_VERSION
from dr_models.cvnets.inputs import IMAGENET_MEAN, IMAGENET_STD
from dr_plugins.errors import CheckpointError

PLAIN = InputConvention((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

level = st.floats(0, 1)
spread = st.floats(0.01, 1)
conventions = st.builds(
    InputConvention,
    st.tuples(level, level, level),
    st.tuples(spread, spread, spread),
    st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    st.sampled_from(["bilinear", "bicubic"]),
    st.floats(0.1, 1),
)


def written(path: Path, metadata: dict[str, str]) -> Path:
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata)
    return path


@given(convention=conventions)
def test_round_trip(convention: InputConvention, tmp_path_factory: pytest.TempPathFactory) -> None:
    metadata = {"format_version": str(FORMAT_VERSION), **convention.to_metadata()}
    path = written(tmp_path_factory.mktemp("file") / "a.safetensors", metadata)
    assert read_convention(path) == convention


@given(convention=conventions, top=st.sampled_from([1.0, 255.0]))
def test_a_convention_agrees_with_itself(convention: InputConvention, top: float) -> None:
    mean, std = convention.for_range(top)
    check_convention(convention, mean, std, top=top)


def test_images_from_0_to_255() -> None:
    assert PLAIN.for_range(255) == ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
    # What Detectron2 and OpenMMLab write for ImageNet.
    check_convention(InputConvention(), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), top=255)


@pytest.mark.parametrize(
    ("mean", "std", "top", "bgr"),
    [
        (IMAGENET_MEAN, IMAGENET_STD, 1.0, False),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 255.0, False),  # forgot to divide
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, True),
        ((0.0, 0.0), (1.0, 1.0), 1.0, False),
        ((float("nan"), 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, False),
    ],
)
def test_another_input_is_refused(
    mean: tuple[float, ...], std: tuple[float, ...], top: float, bgr: bool
) -> None:
    with pytest.raises(CheckpointError, match=r"config X feeds .* mean \[0\.0, 0\.0, 0\.0\]"):
        check_convention(PLAIN, mean, std, top=top, bgr=bgr, host="config X")


def test_channels_in_the_wrong_order_are_refused() -> None:
    mean, std = InputConvention().for_range(255)
    with pytest.raises(CheckpointError):
        check_convention(InputConvention(), mean[::-1], std[::-1], top=255)


def test_files_without_a_convention(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match="cannot read"):
        read_convention(path)
    path.write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="web page"):
        read_convention(path)
    with pytest.raises(CheckpointError, match=r"a\.safetensors.*convert-checkpoint"):
        read_convention(written(path, {"format": "pt"}))
    good = PLAIN.to_metadata()
    with pytest.raises(CheckpointError, match=r"version 2.*Install a newer"):
        read_convention(written(path, {**good, "format_version": "2"}))
    with pytest.raises(CheckpointError, match="damaged metadata"):
        read_convention(written(path, {**good, "format_version": "1", "std": "[1, 1"}))
    assert (
        read_metadata(written(path, {**good, "format_version": "1"}))["mean"] == "[0.0, 0.0, 0.0]"
    )


def test_impossible_values() -> None:
    with pytest.raises(CheckpointError, match="std above 0"):
        InputConvention(std=(1.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("mean", "std"),
    [((123.0, 116.0, 103.0), (0.2, 0.2, 0.2)), ((0.5, 0.5, 0.5), (58.0, 57.0, 57.0))],
)
def test_values_for_images_up_to_255_are_refused(mean: Any, std: Any) -> None:
    with pytest.raises(CheckpointError, match="for images from 0 to 1"):
        InputConvention(mean=mean, std=std)
