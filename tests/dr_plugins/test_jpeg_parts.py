"""Decoding a part gives the pixels of that part, and else the whole is decoded."""

from __future__ import annotations

import importlib.util
import io
import logging
import multiprocessing
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from dr_plugins import jpeg
from dr_plugins.errors import ImageReadError
from dr_plugins.images import Part, open_picture, size_of
from tests.tiny import photograph

NVIMGCODEC = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.nvimgcodec")

pytestmark = [
    pytest.mark.skipif(NVIMGCODEC is None, reason="nvImageCodec is not installed"),
    pytest.mark.skipif(
        features.check_feature("libjpeg_turbo") is not True,
        reason="Pillow has another JPEG library",
    ),
]


@pytest.fixture(autouse=True)
def _checked_again() -> Iterator[None]:
    jpeg.decodes_parts.cache_clear()
    yield
    jpeg.decodes_parts.cache_clear()


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes, box: jpeg.Box) -> np.ndarray:
    top, left, height, width = box
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))[top : top + height, left : left + width]


RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
BOX = (3, 5, 20, 30)


@settings(deadline=None, max_examples=300)
@given(
    data=st.data(),
    height=st.integers(1, 70),
    width=st.integers(2, 70),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from([0, 1, 2, "4:1:1"]),
    options=st.sampled_from([{}, {"restart_marker_blocks": 2}]),
    grey=st.booleans(),
    noise=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_pixels_are_pillows(
    data: st.DataObject, height: int, width: int, quality: int, subsampling: int | str,
    options: dict[str, Any], grey: bool, noise: bool, seed: int,
) -> None:  # fmt: skip
    part_width = data.draw(st.integers(2, width))
    part_height = data.draw(st.integers(1, height))
    top = data.draw(st.integers(0, height - part_height))
    left = data.draw(st.integers(0, width - part_width))
    shape = (height, width, 3) if noise else (9, 8, 3)
    rough = Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))
    image = rough.resize((width, height), Image.Resampling.BICUBIC)
    options = {**options, "quality": quality} | ({} if grey else {"subsampling": subsampling})
    file = encoded(image.convert("L") if grey else image, **options)

    box = top, left, part_height, part_width
    found = jpeg.decode_jpeg_part(file, box)

    assert found is not None
    pixels, size = found
    assert size == (height, width)
    assert np.array_equal(pixels, by_pillow(file, box))


def test_the_corners_of_photographs(tmp_path: Path) -> None:
    photograph(0, 375, 500).save(tmp_path / "a.jpg", quality=94)
    data = (tmp_path / "a.jpg").read_bytes()
    for box in ((0, 0, 375, 500), (0, 0, 9, 17), (366, 483, 9, 17), (100, 99, 101, 203)):
        part = open_picture(tmp_path / "a.jpg", "a.jpg", box)
        assert isinstance(part, Part)
        assert part.box == box
        assert size_of(part) == (375, 500)
        assert np.array_equal(part.pixels, by_pillow(data, box))
        part.pixels[:] = 0  # the caller's own


def test_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated
    data = encoded(RGB, exif=exif)
    found = jpeg.decode_jpeg_part(data, BOX)
    assert found is not None
    assert np.array_equal(found[0], by_pillow(data, BOX))


def opened(data: bytes) -> np.ndarray:
    """What `open_picture` gives when it is asked for a part; the whole is expected."""
    whole = open_picture(io.BytesIO(data), "key", BOX)
    assert isinstance(whole, np.ndarray)
    return whole


@pytest.mark.parametrize(
    "data",
    [
        encoded(RGB.convert("CMYK")),
        encoded(RGB, keep_rgb=True),
        encoded(RGB, "PNG"),
        encoded(RGB, progressive=True),
        encoded(RGB) + b"more",
    ],
    ids=["CMYK", "RGB", "PNG", "progressive", "more after its end"],
)
def test_the_rest_is_left_to_the_whole(data: bytes) -> None:
    assert jpeg.decode_jpeg_part(data, BOX) is None
    assert np.array_equal(opened(data), by_pillow(data, (0, 0, 40, 60)))


def test_a_thumbnail_does_not_say_how_the_image_is_stored() -> None:
    for is_progressive in (True, False):
        thumbnail = encoded(RGB.resize((16, 12)), progressive=not is_progressive)
        data = encoded(RGB, exif=b"Exif\0\0" + thumbnail, progressive=is_progressive)
        assert data.index(thumbnail) < 100
        assert (jpeg.decode_jpeg_part(data, BOX) is None) == is_progressive


def test_a_progressive_file_that_lacks_scans() -> None:
    """libjpeg smooths such blocks with their neighbours, which a part has not."""
    smooth = RGB.resize((9, 6)).resize((60, 40), Image.Resampling.BICUBIC)
    data = encoded(smooth, progressive=True)
    scans = [i for i in range(len(data)) if data[i : i + 2] == b"\xff\xda"]
    data = data[: scans[2]] + b"\xff\xd9"
    assert np.array_equal(opened(data), by_pillow(data, (0, 0, 40, 60)))


@pytest.mark.parametrize(
    "data",
    [encoded(RGB)[:-200], encoded(RGB)[:30], encoded(RGB)[:30] + b"\xff\xd9", b""],
    ids=["cut after the part", "header cut", "header cut, with an end", "empty"],
)
def test_a_file_that_is_cut_off_is_an_error(data: bytes) -> None:
    assert jpeg.decode_jpeg_part(data, BOX) is None
    with pytest.raises(ImageReadError, match="cannot read image 'key'"):
        open_picture(io.BytesIO(data), "key", BOX)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    class Damaged(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise tarfile.ReadError("unexpected end of data")

    for file, message in ((tmp_path / "a.jpg", "No such file"), (Damaged(), "unexpected end")):
        with pytest.raises(ImageReadError, match=f"cannot read image 'key': .*{message}.*Restore"):
            open_picture(file, "key", BOX)


@pytest.mark.parametrize("box", [(0, 0, 9, 1), (21, 0, 20, 20), (0, 41, 20, 20)])
def test_narrow_and_impossible_parts_are_left_to_the_whole(box: jpeg.Box) -> None:
    data = encoded(RGB)
    assert jpeg.decode_jpeg_part(data, BOX) is not None
    assert jpeg.decode_jpeg_part(data, box) is None


def test_very_large_images_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(RGB)
    assert jpeg.decode_jpeg_part(data, BOX) is not None  # and the comparison with Pillow is over
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 60 - 1)
    assert jpeg.decode_jpeg_part(data, BOX) is None


@pytest.mark.parametrize("call", [0, 13, 119])
def test_one_differing_pixel_switches_it_off(
    call: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other, calls = jpeg._PartDecoder.decode, iter(range(1000))

    def differs(self: Any, data: bytes, box: jpeg.Box) -> np.ndarray | None:
        pixels = other(self, data, box)
        if pixels is not None and next(calls) == call:
            pixels[-1, -1, -1] ^= 1
        return pixels

    monkeypatch.setattr(jpeg._PartDecoder, "decode", differs)
    with caplog.at_level(logging.WARNING):
        assert jpeg.decode_jpeg_part(encoded(RGB), BOX) is None
        assert jpeg.decode_jpeg_part(encoded(RGB), BOX) is None
    (record,) = caplog.records
    assert "nvImageCodec decodes" in record.message


def test_forked_workers_and_threads_decode() -> None:
    data = encoded(RGB)
    expected = by_pillow(data, BOX)
    assert jpeg.decode_jpeg_part(data, BOX) is not None
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(jpeg.decode_jpeg_part, [(data, BOX)] * 8)
    with ThreadPoolExecutor(4) as threads:
        found += threads.map(lambda _: jpeg.decode_jpeg_part(data, BOX), range(200))
    assert len(found) == 208
    assert all(part is not None and np.array_equal(part[0], expected) for part in found)


COMMAND = (
    "from dr_plugins.images import open_picture\n"
    f"print(type(open_picture(sys.argv[1], 'a.jpg', {BOX})).__name__)\n"
)


@pytest.mark.parametrize(
    ("before", "is_decoded"),
    [
        ("", True),
        ("sys.modules['nvidia'] = None", False),
        ("import types; sys.modules['nvidia'] = types.SimpleNamespace(nvimgcodec=sys)", False),
    ],
    ids=["present", "missing", "too old"],
)
def test_quietly_used_where_it_is_installed(before: str, is_decoded: bool, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(RGB))
    command = f"import sys; {before}\n{COMMAND}print('stderr is open', file=sys.stderr)"
    call = [sys.executable, "-c", command, str(tmp_path / "a.jpg")]
    result = subprocess.run(call, capture_output=True, text=True, check=True)
    assert result.stdout == ("Part\n" if is_decoded else "ndarray\n")
    assert result.stderr == "stderr is open\n"


@pytest.mark.parametrize("before", ["import os; os.close(2)", "sys.stderr = None"])
def test_without_a_standard_error(before: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(RGB))
    call = [sys.executable, "-c", f"import sys; {before}\n{COMMAND}", str(tmp_path / "a.jpg")]
    result = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    assert result.stdout == "Part\n"


def test_threads_that_begin_at_once_lose_no_standard_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(RGB))
    command = (
        "import sys; from concurrent.futures import ThreadPoolExecutor\n"
        "from dr_plugins.images import open_picture\n"
        "with ThreadPoolExecutor(8) as threads:\n"
        f"    list(threads.map(lambda _: open_picture(sys.argv[1], 'a.jpg', {BOX}), range(8)))\n"
        "print('stderr is open', file=sys.stderr)"
    )
    call = [sys.executable, "-c", command, str(tmp_path / "a.jpg")]
    result = subprocess.run(call, capture_output=True, text=True, check=True)
    assert result.stderr == "stderr is open\n"
