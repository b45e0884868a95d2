"""Sheets show the stored views and answers of the chosen images, whatever their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageFont

from dr_plugins.cli.main import main
from dr_plugins.errors import (
    ImageChangedError,
    OutputError,
    SettingsMismatchError,
    UnknownImageError,
)
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.pictures import StoredPictures, choose_rows, draw_sheet, show
from dr_plugins.pictures.lettering import lettered
from dr_plugins.pictures.saving import save
from dr_plugins.pictures.sheet import outlined
from dr_plugins.replay.replayer import Replayer
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import ImageStatistics, compute_statistics
from dr_plugins.tools.subset import subset
from tests.tiny import TinyTeacher, make_photographs, make_set, photograph, policy

Choosing = tuple[ShardSet, ImageStatistics, Callable[..., list[int]]]
NAMES = ("<img onerror=alert(1)>", "кошка", "日本猫", "great white shark, " * 8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of all shapes with all kinds of names; one is grey."""
    root = tmp_path_factory.mktemp("pictures") / "train"
    for number, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for i, (height, width) in enumerate([(40, 120), (90, 20), (60, 60)]):
            image = photograph(10 * number + i, height, width)
            (image.convert("L") if i == 2 else image).save(root / name / f"{i} {name[:20]}.png")
    return root


@pytest.fixture(scope="module", params=["randaug", "randaug_mixing"])
def directory(
    request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("set") / "set"
    return make_set(out, root, policy_=policy(request.param, size=24), teacher=TinyTeacher(4))


@pytest.fixture(scope="module")
def pictures(root: Path, directory: Path) -> StoredPictures:
    return StoredPictures(open_source(str(root)), ShardSet(directory))


def contains(page: Image.Image, part: Image.Image) -> bool:
    """Whether a picture is somewhere in a page, pixel for pixel."""
    whole, wanted = np.asarray(page), np.asarray(part)
    corners = (whole[: 1 - wanted.shape[0], : 1 - wanted.shape[1]] == wanted[0, 0]).all(-1)
    return any(
        np.array_equal(whole[y : y + wanted.shape[0], x : x + wanted.shape[1]], wanted)
        for y, x in np.argwhere(corners)
    )


def test_a_sheet_shows_the_views_that_the_teacher_saw(pictures: StoredPictures) -> None:
    row = 4
    page = draw_sheet(pictures, [row, 0], views=2)
    for sample in (0, 5):  # the first and the last of six
        view = pictures.view(row, sample).resize((176, 176), Image.Resampling.NEAREST)
        assert contains(page, view)
    assert not contains(page, pictures.view(row, 3).resize((176, 176), Image.Resampling.NEAREST))


def test_every_name_and_shape_can_be_drawn(pictures: StoredPictures) -> None:
    page = draw_sheet(pictures, range(len(pictures.shards)), views=7, topk=9)
    assert page.mode == "RGB"
    assert page.height > 12 * 200


@pytest.mark.parametrize("preset", ["rrc", "randaug_mixing"])
def test_an_image_of_the_same_size_is_not_taken_for_the_one_that_was_reinforced(
    preset: str, tmp_path: Path
) -> None:
    root = make_photographs(tmp_path / "photographs")
    directory = make_set(tmp_path / "set", root, policy_=policy(preset))
    shards = ShardSet(directory)
    path = root / shards.keys[3]
    Image.new("RGB", Image.open(path).size).save(path)
    pictures = StoredPictures(open_source(str(root)), shards)
    with pytest.raises(ImageChangedError):
        pictures.image(3)
    with pytest.raises(ImageChangedError):
        pictures.view(3, 0)
    mixing = [
        (row, sample)
        for row in set(range(len(shards))) - {3}
        for sample in range(shards.manifest.samples)
        if pictures.params(row, sample).partner == 3
    ]
    assert bool(mixing) == (preset == "randaug_mixing")
    for row, sample in mixing:
        with pytest.raises(ImageChangedError):
            pictures.view(row, sample)


def test_views_are_those_of_the_replayer(
    pictures: StoredPictures, root: Path, directory: Path
) -> None:
    replayer = Replayer(open_source(str(root)), ShardSet(directory))
    record = replayer.shards.read(replayer.rows[3:4], np.array([2]))
    view, _ = replayer.view(3, replayer.policy.decode(record)[0])
    found = np.asarray(pictures.view(int(replayer.rows[3]), 2))
    assert np.array_equal(found, view.permute(1, 2, 0).numpy())


def test_an_image_is_decoded_once_for_all_its_views(
    root: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, read = ShardSet(directory), []
    source = open_source(str(root))
    whole = StoredPictures(source, shards)
    expected = [np.asarray(whole.view(1, sample)) for sample in range(6)]
    load = ImageSource.load_picture

    def counting(self: ImageSource, index: int, **options: bool) -> object:
        read.append(self.keys[index])
        return load(self, index, **options)

    monkeypatch.setattr(ImageSource, "load_picture", counting)
    pictures = StoredPictures(source, shards)
    pictures.image(1).thumbnail((2, 2))  # does not change what is kept
    views = [np.asarray(pictures.view(1, sample)) for sample in range(6)]
    assert all(np.array_equal(a, b) for a, b in zip(views, expected, strict=True))
    assert read.count(shards.keys[1]) == 1


def test_images_that_are_not_there_are_named(root: Path, tmp_path: Path) -> None:
    source = open_source(str(root))
    directory = make_set(tmp_path / "set", root, teacher=TinyTeacher(4))
    shards = ShardSet(directory)
    some = StoredPictures(source.without(source.keys[:2]), shards)
    missing = int(shards.keys.row(source.keys[0]))
    assert missing not in some
    assert len(some.rows) == len(shards) - 2
    with pytest.raises(UnknownImageError, match="0 <img"):
        draw_sheet(some, [missing])


def test_a_subset_is_shown_with_the_folder_of_the_whole_set(
    photographs: Path, shard_sets: Callable[..., Path], tmp_path: Path
) -> None:
    key = ShardSet(shard_sets()).keys[4]
    subset(shard_sets(), tmp_path / "one", keys=[key])
    pictures = StoredPictures(open_source(photographs), ShardSet(tmp_path / "one"))
    assert pictures.rows.tolist() == [0]
    assert pictures.image(0).size == Image.open(photographs / key).size


def test_show_draws_the_named_images(root: Path, directory: Path) -> None:
    shards = ShardSet(directory)
    source = ImageSource(open_source(str(root)).dataset)
    one, same = show(shards, source.keys[5], source), show(shards, [source.keys[5]], root)
    assert one.tobytes() == same.tobytes()
    with pytest.raises(UnknownImageError):
        show(shards, "missing.jpg", source)
    with pytest.raises(ValueError, match="views"):
        show(shards, source.keys[5], source, views=0)


def test_an_outline_is_where_the_geometry_says() -> None:
    square = np.array([[10.0, 10.0], [30.0, 10.0], [30.0, 30.0], [10.0, 30.0]])
    page = np.asarray(outlined(Image.new("RGB", (40, 20)), [square], (400, 200)))
    assert page.shape == (200, 400, 3)
    assert page[150, 100].any()
    assert page[150, 300].any()
    assert page[100, 200].any()
    assert not page[150, 200].any()
    assert not page[50, 200].any()


# --- which images ---------------------------------------------------------------------------------


@pytest.fixture
def choosing(pictures: StoredPictures) -> Choosing:
    shards = pictures.shards
    found = compute_statistics(shards)
    return shards, found, lambda **how: choose_rows(shards, pictures.rows, lambda: found, **how)


def test_the_worst_and_the_best_are_by_the_probability_of_the_label(choosing: Choosing) -> None:
    _, found, choose = choosing
    order = sorted(range(len(found)), key=lambda row: found.label_prob[row])
    assert choose(order="worst", count=3) == order[:3]
    assert choose(order="best", count=3) == order[::-1][:3]
    in_class = [row for row in order if found.label[row] == 1]
    assert choose(order="worst", count=99, class_name=sorted(NAMES)[1]) == in_class
    assert choose(order="worst", count=99, class_name="1") == in_class


def test_random_images_depend_on_the_seed_alone(choosing: Choosing) -> None:
    shards, _, choose = choosing
    assert choose(count=5, seed=1) == choose(count=5, seed=1) != choose(count=5, seed=2)
    assert choose(count=99) == [*range(len(shards))]


def test_an_unknown_class_is_an_error(choosing: Choosing) -> None:
    with pytest.raises(SettingsMismatchError, match="dog"):
        choosing[2](class_name="dog")


def test_without_labels_there_is_no_worst_image(choosing: Choosing) -> None:
    shards, found, _ = choosing
    unknown = ImageStatistics(**{**vars(found), "label": np.full(len(found), -1, np.int32)})
    with pytest.raises(SettingsMismatchError, match="label"):
        choose_rows(shards, np.arange(len(found)), lambda: unknown, order="worst")


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a" * 500, "кошка" * 90, "猫" * 90, "\n\t\0", "\udc80", "e\u0301"]
)
def test_any_text_fits(name: str) -> None:
    text, font = lettered(name, 13, 100)
    assert 0 < font.getlength(text) <= 100
    font.getmask(text)


@pytest.mark.parametrize("ending", ["jpg", "gif", "webp"])
def test_a_picture_that_is_too_large_for_its_format(tmp_path: Path, ending: str) -> None:
    with pytest.raises(OutputError, match="70000"):
        save(Image.new("L", (1, 70_000)), tmp_path / f"sheet.{ending}")


def test_the_middle_of_a_file_name_is_left_out() -> None:
    text, _ = lettered("n01440764/" + "x" * 200 + "_10026.JPEG", 13, 300, keep_end=True)
    assert text.startswith("n01440764/")
    assert text.endswith("_10026.JPEG")


def test_letters_that_no_font_knows_are_escaped() -> None:
    assert lettered("a\U0010fffdb", 13, 300)[0] == "a\\U0010fffdb"
    assert isinstance(lettered("abc", 13, 300)[1], ImageFont.FreeTypeFont)


# --- the command ----------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_command_writes_a_sheet(root: Path, directory: Path, tmp_path: Path) -> None:
    out, lists = tmp_path / "sheet.png", tmp_path / "keys.txt"
    key = ShardSet(directory).keys[2]
    lists.write_bytes(f"{key}\r\n".encode())
    sheets = []
    for how in (["--keys", key], ["--keys", lists]):
        result = run("preview", directory, "--images", root, "--out", out, *how)
        assert result.exit_code == 0, result.output
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1]
    result = run("preview", directory, "--images", root, "--out", out, "--worst", 2, "--quiet")
    assert result.exit_code == 0, result.output
    assert Image.open(out).height > 400


def test_an_image_in_place_of_a_list_of_keys(root: Path, directory: Path, tmp_path: Path) -> None:
    out, image = tmp_path / "sheet.png", next(root.rglob("*.png"))
    result = run("preview", directory, "--images", root, "--out", out, "--keys", image)
    assert result.exit_code == 2
    assert repr(str(image)) in result.output


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--worst", 2, "--best", 2], 2),
        (["--seed", -1], 2),
        (["--class", "dog"], 2),
        (["--keys", "missing"], 1),
    ],
)
def test_wrong_options_are_errors(
    root: Path, directory: Path, tmp_path: Path, options: list[object], code: int
) -> None:
    out = tmp_path / "sheet.png"
    result = run("preview", directory, "--images", root, "--out", out, *options)
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)
    assert not out.exists()


def test_an_unknown_ending_is_an_error(root: Path, directory: Path, tmp_path: Path) -> None:
    result = run("preview", directory, "--images", root, "--out", tmp_path / "sheet.xyz")
    assert result.exit_code == 1
    assert "sheet.xyz" in result.stderr
