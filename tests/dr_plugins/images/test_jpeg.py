"""Fast decoding gives Pillow's pixels, and leaves to Pillow what it does not understand."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from torchvision.datasets import ImageFolder

simplejpeg = pytest.importorskip("simplejpeg")

from dr_plugins import ReinforcedDataset  # noqa: E402
from dr_plugins.errors import ImageReadError  # noqa: E402
from dr_plugins.images import jpeg  # noqa: E402
from dr_plugins.images.decoding import open_image, open_picture  # noqa: E402
from tests.tiny import make_photographs, make_set, photograph, policy  # noqa: E402

pytestmark = pytest.mark.skipif(
    features.check_feature("libjpeg_turbo") is not True, reason="Pillow has another JPEG library"
)


@pytest.fixture(autouse=True)
def _checked_again() -> Iterator[None]:
    jpeg._is_pillows.cache_clear()
    yield
    jpeg._is_pillows.cache_clear()


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(open_image(io.BytesIO(data), "key"))


RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (19, 33, 3), np.uint8))


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    quality=st.integers(1, 100),
    subsampling=st.integers(0, 2),
    progressive=st.booleans(),
    grey=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_pixels_are_pillows(
    width: int, height: int, quality: int, subsampling: int, progressive: bool, grey: bool,
    seed: int,
) -> None:  # fmt: skip
    rough = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), np.uint8)
    image = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
    options: dict[str, Any] = {"quality": quality, "progressive": progressive}
    if not grey:
        options["subsampling"] = subsampling
    data = encoded(image.convert("L") if grey else image, **options)
    found = jpeg.decode_jpeg(data)
    assert found is not None
    assert found.shape == (height, width, 3)
    assert np.array_equal(found, by_pillow(data))


def test_photographs_too(tmp_path: Path) -> None:
    photograph(0, 375, 500).save(tmp_path / "a.jpg", quality=94)
    data = (tmp_path / "a.jpg").read_bytes()
    found = jpeg.decode_jpeg(data)
    assert found is not None
    assert np.array_equal(found, by_pillow(data))
    pixels = open_picture(tmp_path / "a.jpg", "a.jpg")
    assert np.array_equal(pixels, found)
    pixels[:] = 0  # the caller's own


def test_metadata_changes_no_pixel() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated
    data = encoded(RGB, exif=exif, comment=b"x", icc_profile=b"y" * 100, dpi=(3, 4))
    found = jpeg.decode_jpeg(data)
    assert found is not None
    assert np.array_equal(found, by_pillow(data))


@pytest.mark.parametrize(
    "data",
    [
        encoded(RGB.convert("CMYK")),
        encoded(RGB, keep_rgb=True),
        encoded(RGB, "PNG"),
    ],
    ids=["CMYK", "RGB", "PNG"],
)
def test_the_rest_is_left_to_pillow(data: bytes) -> None:
    assert jpeg.decode_jpeg(data) is None
    assert np.array_equal(open_picture(io.BytesIO(data), "key"), by_pillow(data))


def test_rare_subsamplings_are_left_to_pillow() -> None:
    data = encoded(RGB, subsampling=0)
    frame = data.index(b"\xff\xc0") + 11
    assert data[frame] == 0x11
    assert jpeg.decode_jpeg(data) is not None
    assert jpeg.decode_jpeg(data[:frame] + b"\x14" + data[frame + 1 :]) is None


@pytest.mark.parametrize("data", [encoded(RGB)[:-40], encoded(RGB)[:30], b""])
def test_damaged_files_have_pillows_message(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert jpeg.decode_jpeg(data) is None
    messages = []
    for read in (open_image, open_picture):
        with pytest.raises(ImageReadError, match=r"cannot read image 'key': .*Restore") as caught:
            read(path, "key")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def damaged(seed: int) -> bytes:
    """A photograph with 512 random bytes over its scan."""
    rng = np.random.default_rng(seed)
    data = bytearray(encoded(photograph(seed, 375, 500), quality=90))
    at = int(rng.integers(1000, len(data) - 600))
    data[at : at + 512] = rng.bytes(512)
    return bytes(data)


def test_damage_is_refused_or_decoded_as_pillow_does() -> None:
    refused = 0
    for seed in range(25):
        data, found, expected = damaged(seed), None, None
        with contextlib.suppress(ImageReadError):
            expected = by_pillow(data)
        with contextlib.suppress(ImageReadError):
            found = open_picture(io.BytesIO(data), "key")
        assert (found is None) == (expected is None)
        assert found is None or np.array_equal(found, expected)
        refused += found is None
    assert refused > 10


@pytest.mark.parametrize("backend", ["pil", "tensor"])
def test_no_view_of_a_damaged_file_is_served(tmp_path: Path, backend: str) -> None:
    root = make_photographs(tmp_path / "train", per_class=1)
    path = root / "n01" / "n01_2.JPEG"
    photograph(0, 375, 500).save(path, quality=90)
    shards = make_set(tmp_path / "set", root, policy_=policy("rrc", backend=backend), samples=40)
    path.write_bytes(next(data for data in map(damaged, range(25)) if is_refused(data)))
    train = ReinforcedDataset(ImageFolder(str(root)), shards, p=1.0, check="off")
    for epoch in range(40):
        train.set_epoch(epoch)
        with pytest.raises(ImageReadError, match=path.name):
            train[0]


def is_refused(data: bytes) -> bool:
    try:
        by_pillow(data)
    except ImageReadError:
        return True
    return False


def test_very_large_images_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(RGB)
    assert jpeg.decode_jpeg(data) is not None  # and the comparison with Pillow is over
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 19 * 33)
    assert jpeg.decode_jpeg(data) is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 19 * 33 - 1)
    assert jpeg.decode_jpeg(data) is None


@pytest.mark.parametrize("kind", range(5))
def test_one_differing_pixel_switches_it_off(
    kind: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other, calls = simplejpeg.decode_jpeg, iter(range(100))

    def differs(data: bytes, strict: bool) -> np.ndarray:
        pixels = other(data, strict=strict)
        if next(calls) == 2 * kind:
            pixels[-1, -1, -1] ^= 1
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", differs)
    with caplog.at_level(logging.WARNING):
        assert jpeg.decode_jpeg(encoded(RGB)) is None
        assert jpeg.decode_jpeg(encoded(RGB)) is None
    (record,) = caplog.records
    assert "simplejpeg" in record.message


def test_without_simplejpeg(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(RGB))
    command = (
        "import sys; sys.modules['simplejpeg'] = None\n"
        "from dr_plugins.images import decoding as images, jpeg\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "assert jpeg.decode_jpeg(data) is None\n"
        "print(images.open_picture(sys.argv[1], 'a').sum())"
    )
    assert int(run(command, tmp_path / "a.jpg").stdout) == by_pillow(encoded(RGB)).sum()


def run(command: str, path: Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", command, str(path)]
    return subprocess.run(call, capture_output=True, text=True, check=True)
