from __future__ import annotations

import io
import multiprocessing
import os
import random
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from dr_plugins.errors import ImageReadError
from dr_plugins.images.decoding import (
    check_image,
    open_image,
    open_picture,
    strict_decoding,
    to_rgb,
)
from tests.tiny import photograph

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (13, 17, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> np.ndarray:
    image = open_image(io.BytesIO(data), "n01/a.jpg")
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, -1)


# --- modes ----------------------------------------------------------------------------------------


def test_rgb_is_taken_as_it_is() -> None:
    assert np.array_equal(opened(encoded(Image.fromarray(RGB), "PNG")), RGB)


def test_grey_is_replicated() -> None:
    values = RGB[..., 0]
    assert np.array_equal(opened(encoded(Image.fromarray(values), "PNG")), grey(values))


def test_black_and_white() -> None:
    values = RGB[..., 0] > 99
    data = encoded(Image.fromarray(values), "PNG")
    assert Image.open(io.BytesIO(data)).mode == "1"
    assert np.array_equal(opened(data), grey(values * np.uint8(255)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparency_is_dropped(kind: str) -> None:
    alpha = RNG.integers(0, 256, RGB.shape[:2], np.uint8)
    rgba = Image.fromarray(np.dstack([RGB, alpha]))
    la = Image.merge("LA", (Image.fromarray(RGB[..., 1]), Image.fromarray(alpha)))
    assert (rgba.mode, la.mode) == ("RGBA", "LA")
    assert np.array_equal(opened(encoded(rgba, kind)), RGB)
    assert np.array_equal(opened(encoded(la, kind)), grey(RGB[..., 1]))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
def test_palettes_are_looked_up(transparency: int | bytes | None) -> None:
    palette = RNG.integers(0, 256, (256, 3), np.uint8)
    indices = RNG.integers(0, 256, RGB.shape[:2], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    data = encoded(image, "PNG", **options)
    assert Image.open(io.BytesIO(data)).mode == "P"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, on palettes with graded transparency
        assert np.array_equal(opened(data), palette[indices])


def test_cmyk() -> None:
    cmyk = RNG.integers(0, 256, (*RGB.shape[:2], 4), np.uint8)
    ink, key = cmyk[..., :3].astype(int), 255 - cmyk[..., 3:].astype(int)
    product = ink * key + 128
    expected = (key - (((product >> 8) + product) >> 8)).clip(0, 255)
    image = Image.frombytes("CMYK", (RGB.shape[1], RGB.shape[0]), cmyk.tobytes())
    assert np.array_equal(opened(encoded(image, "TIFF")), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_high_byte(kind: str) -> None:
    values = RNG.integers(0, 65536, RGB.shape[:2]).astype(np.uint16)
    data = encoded(Image.fromarray(values), kind)
    assert np.array_equal(opened(data), grey((values // 256).astype(np.uint8)))


def test_sixteen_bit_grey_big_endian() -> None:
    values = RNG.integers(0, 65536, RGB.shape[:2]).astype(">u2")
    image = Image.frombytes("I;16B", values.shape[::-1], values.tobytes())
    assert np.array_equal(np.asarray(to_rgb(image)), grey((values // 256).astype(np.uint8)))


def test_wide_integers_and_floats_are_clipped() -> None:
    integers = np.array([[-5, 0, 254], [255, 256, 70000]], np.int32)
    floats = np.array([[np.nan, -0.5, 7.9], [255.0, 1e9, np.inf]], np.float32)
    assert np.array_equal(
        opened(encoded(Image.fromarray(integers), "TIFF")),
        grey(np.array([[0, 0, 254], [255, 255, 255]])),
    )
    assert np.array_equal(
        opened(encoded(Image.fromarray(floats), "TIFF")), grey(np.array([[0, 0, 7], [255] * 3]))
    )


@pytest.mark.parametrize("most", [1.0, 65535.0, -9.0])
def test_other_ranges_of_floats_are_errors(most: float) -> None:
    values = (np.linspace(0.001, 1, 48, dtype=np.float32) * most).reshape(6, 8)
    with pytest.raises(ImageReadError, match=r"image\.tif.*expected 0 to 255"):
        open_image(io.BytesIO(encoded(Image.fromarray(values), "TIFF")), "image.tif")
    assert not opened(encoded(Image.fromarray(np.round(values / most)), "TIFF")).max() > 1  # a mask


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_exif_orientation_is_ignored(mode: str) -> None:
    image = photograph(1, 40, 30).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    plain = opened(encoded(image, "JPEG"))
    assert plain.shape == (40, 30, 3)
    assert np.array_equal(opened(encoded(image, "JPEG", exif=exif)), plain)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (opened(data) == (255, 0, 0)).all()


def test_jpeg_variants_are_what_pillow_decodes() -> None:
    image = photograph(2, 37, 53)
    for variant, options in (
        (image, {}),
        (image, {"progressive": True}),
        (image, {"subsampling": 0}),
        (image.convert("L"), {}),
        (image.convert("CMYK"), {}),
    ):
        data = encoded(variant, "JPEG", **options)
        with Image.open(io.BytesIO(data)) as reference:
            expected = np.asarray(reference.convert("RGB"))
        assert np.array_equal(opened(data), expected)
        assert np.abs(expected.astype(int) - np.asarray(variant.convert("RGB"))).mean() < 12


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_tiny_images(size: tuple[int, int]) -> None:
    assert opened(encoded(Image.new("L", size, 9), "JPEG")).shape == (size[1], size[0], 3)


# --- files ----------------------------------------------------------------------------------------


def test_files_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(RGB), "PNG"))
    broken = tmp_path / "b.png"
    broken.write_bytes(b"GIF89a")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        assert np.array_equal(np.asarray(open_image(path, "a.png")), RGB)
        file = open(path, "rb")  # noqa: SIM115 - it must be closed by what is tested
        open_image(file, "a.png")
        assert file.closed
        file = open(broken, "rb")  # noqa: SIM115
        with pytest.raises(ImageReadError):
            open_image(file, "b.png")
        assert file.closed


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"hello world, this is not an image" * 99, bytes(5000)]
)
def test_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=r"cannot read image 'n01/x\.jpg'.*no other image"):
        open_image(path, "n01/x.jpg")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.jpg", tmp_path):
        with pytest.raises(ImageReadError, match=r"'n01/x\.jpg'"):
            open_image(path, "n01/x.jpg")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("read", [open_image, open_picture, check_image])
def test_what_never_ends_is_no_image(tmp_path: Path, make: Any, read: Any) -> None:
    make(tmp_path / "x.jpg")
    with pytest.raises(ImageReadError, match=r"'n01/x\.jpg'.*regular"):
        read(tmp_path / "x.jpg", "n01/x.jpg")


def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.raises(ImageReadError, match="decompression bomb"):
        opened(encoded(Image.fromarray(RGB), "PNG"))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_truncated_jpeg_is_whole_or_refused(options: dict[str, object]) -> None:
    data = encoded(photograph(3, 64, 80), "JPEG", quality=90, **options)
    whole = opened(data)
    refused = 0
    for length in (*range(0, len(data) - 40, 37), *range(len(data) - 40, len(data))):
        try:
            assert np.array_equal(opened(data[:length]), whole), length
        except ImageReadError:
            refused += 1
    assert refused > 40


KINDS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_files(kind: str, lenient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    data = encoded(photograph(4, 20, 24), kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(ImageReadError, match=r"'n01/a\.jpg'"):
            opened(data[: int(share * len(data))])
        with pytest.raises(ImageReadError, match=r"'n01/a\.jpg'"):
            open_picture(io.BytesIO(data[: int(share * len(data))]), "n01/a.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient
    assert opened(data).shape == (20, 24, 3)


def test_damage_is_refused_where_pillow_was_asked_to_fill_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = bytearray(encoded(Image.fromarray(RGB), "PNG"))
    data[len(data) // 2] ^= 255
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageReadError):
        opened(bytes(data))


def test_threads_do_not_unlock_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch stays off until the last thread has left, and is put back then."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with ThreadPoolExecutor(1) as other:
        with strict_decoding:
            other.submit(strict_decoding.__enter__).result()
        assert not ImageFile.LOAD_TRUNCATED_IMAGES
        other.submit(strict_decoding.__exit__).result()
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_forked_process_is_not_bound_by_threads_that_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    fork = multiprocessing.get_context("fork")
    with strict_decoding, ProcessPoolExecutor(1, mp_context=fork) as child:
        assert child.submit(_switch_after_decoding).result(timeout=60)


def _switch_after_decoding() -> bool:
    opened(encoded(Image.fromarray(RGB), "PNG"))
    return ImageFile.LOAD_TRUNCATED_IMAGES


def _kinds() -> list[str]:
    Image.init()
    return [k for k in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "AVIF") if k in Image.SAVE]


@settings(max_examples=150)
@given(kind=st.sampled_from(_kinds()), seed=st.integers(0, 2**32), cut=st.booleans())
def test_damaged_files_give_pixels_or_an_error_that_names_the_key(
    kind: str, seed: int, cut: bool
) -> None:
    choose = random.Random(seed)
    data = bytearray(encoded(Image.fromarray(RGB), kind))
    if cut:
        del data[choose.randrange(1, len(data)) :]
    for _ in range(choose.randrange(1, 6)):
        data[choose.randrange(min(len(data), choose.choice((40, 200, 10_000))))] = choose.randrange(
            256
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = ""
        try:
            assert opened(bytes(data)).ndim == 3
        except ImageReadError as error:
            message = str(error)
    assert not message or "'n01/a.jpg'" in message


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 9))
def test_rgb_images_pass_through(height: int, width: int, seed: int) -> None:
    image = photograph(seed, height, width)
    before = image.tobytes()
    assert to_rgb(image).tobytes() == before
    grey_image = image.convert("L")
    before = grey_image.tobytes()
    to_rgb(grey_image)
    assert (grey_image.mode, grey_image.tobytes()) == ("L", before)
