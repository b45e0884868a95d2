"""The quickstart's images are the original's, byte for byte, and need nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from examples.quickstart import data

# Of the original: its IDX files without their headers, and the first 200 images of each class.
SHA256 = {
    "train_pixels": "6c59094797e4bc9e7232843d7bf5085c15b67423354dab959246e3e5faa16517",
    "train_labels": "da01741fd7f7b6c457c1145f1c3363c543fd89efe01e31ff93c18850342e776b",
    "train_numbers": "76b879664db697f0e0ad70138b2760623f943cdb708db988a9b0a2f96a84d2b4",
    "test_pixels": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "test_labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}


def test_packed_arrays_are_pinned() -> None:
    with np.load(data.PACKED) as packed:
        assert packed["train_pixels"].shape == (2000, 28, 28)
        assert packed["test_pixels"].shape == (10_000, 28, 28)
        assert packed["train_numbers"].dtype == "<u2"
        found = {name: hashlib.sha256(packed[name].tobytes()).hexdigest() for name in packed.files}
    assert found == SHA256
    assert data.PACKED.stat().st_size <= 6_000_000
    assert "Zalando" in data.PACKED.with_suffix(".LICENSE").read_text()


def test_small_quickstarts_need_only_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "prepare", None)
    train, test = data.load(20, tmp_path)
    assert len(train) == 200
    assert np.bincount(train.labels).tolist() == [20] * 10
    assert (np.diff(train.numbers) > 0).all()
    assert np.bincount(test.labels).tolist() == [1000] * 10
    whole, _ = data.load(data.PACKED_PER_CLASS, tmp_path)
    assert np.isin(train.numbers, whole.numbers).all()


def test_more_images_without_the_original_name_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(data, "FashionMNIST", refuse)
    monkeypatch.setattr(data.prepare, "__defaults__", (tmp_path / "absent",))
    with pytest.raises(data.DatasetUnavailableError) as error:
        data.load(data.PACKED_PER_CLASS + 1, tmp_path)
    for said in ("no network", "dataset-fashion-mnist", "2,000"):
        assert said in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(
    not data.DEBIAN_PACKAGE.is_dir(),
    reason="Debian's dataset-fashion-mnist is not installed; the pinned digests say the same",
)
def test_packed_arrays_are_those_of_debians_package(tmp_path: Path) -> None:
    packed = data.load(data.PACKED_PER_CLASS, tmp_path)
    original = [data.load_original(tmp_path, train) for train in (True, False)]
    original[0] = original[0].first_of_each_class(data.PACKED_PER_CLASS)
    for ours, theirs in zip(packed, original, strict=True):
        for field in ("pixels", "labels", "numbers"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
