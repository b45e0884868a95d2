"""Images corrupted on the fly: always the same, of the published size, and worse with severity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("imagecorruptions")

from dr_plugins.evaluation import ALEXNET_ERRORS, corrupt, find_sets
from dr_plugins.evaluation.corruptions import EXTRA
from tests.dr_plugins.evaluation.imitations import CLASSES, COUNT, WNIDS


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


NAMES = [
    # Numba compiles it for some seconds.
    pytest.param(name, marks=pytest.mark.slow) if name == "glass_blur" else name
    for name in (*ALEXNET_ERRORS, *EXTRA)
]


@pytest.mark.parametrize("name", NAMES)
def test_corruptions_depend_on_the_image_alone(photograph: Image.Image, name: str) -> None:
    state = np.random.get_state()[1].copy()
    first = np.asarray(corrupt(photograph, name, 3, "a"))
    assert (np.random.get_state()[1] == state).all()
    np.random.seed(5)
    assert (np.asarray(corrupt(photograph, name, 3, "a")) == first).all()
    assert first.shape == (64, 64, 3)
    assert (first != np.asarray(photograph)).any()


def test_noise_differs_between_images(photograph: Image.Image) -> None:
    for name in ("gaussian_noise", "impulse_noise"):
        first, second = (np.asarray(corrupt(photograph, name, 3, key)) for key in "ab")
        assert (first != second).any()


def test_a_set_is_corrupted_as_published(tmp_path: Path, photograph: Image.Image) -> None:
    folder = tmp_path / "val" / WNIDS[0]
    folder.mkdir(parents=True)
    photograph.resize((300, 400)).save(folder / "ILSVRC2012_val_00000001.JPEG")
    sets, missing = find_sets(["imagenet+c"], [tmp_path], CLASSES)
    assert not missing
    assert len(sets) == 75
    assert all(each.whole and each.num_classes == COUNT for each in sets)
    assert len({each.digest() for each in sets}) == 75
    by_name = {each.name: each.load(0) for each in sets if "gaussian_noise" in each.name}
    assert {image.size for image in by_name.values()} == {(224, 224)}
    roughness = [
        np.abs(np.diff(np.asarray(by_name[f"imagenet+c/gaussian_noise/{s}"], float), axis=0)).mean()
        for s in range(1, 6)
    ]
    assert roughness == sorted(roughness)
