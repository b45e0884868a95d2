"""Confident learning against the paper's formula and against cleanlab; what the command writes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from dr_plugins.cli.main import main
from dr_plugins.errors import DatasetMismatchError, SettingsMismatchError, UnknownImageError
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.pictures import StoredPictures
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import average_answers
from dr_plugins.suspects import class_thresholds, confident_classes, find_suspects, write_page
from tests.tiny import make_photographs, make_set, policy

CLASSES, IMAGES = 6, 90


class Rows:
    """Images whose pixels say which of them they are, with noisy labels."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (24, 24), (index, 0, 0)), int(self.labels[index])


class Answers(nn.Module):
    """Returns the logits of the image whose number is in its pixels, with some noise per view."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        numbers = views[:, 0].flatten(1).amax(1).long().clamp(max=len(self.logits) - 1)
        return self.logits[numbers]


def noisy(seed: int, sharpness: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a teacher that is right more often than its labels."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, CLASSES, IMAGES)
    logits = rng.normal(size=(IMAGES, CLASSES))
    logits[np.arange(IMAGES), true] += sharpness
    labels = np.where(rng.random(IMAGES) < 0.2, rng.integers(0, CLASSES, IMAGES), true)
    return logits, labels


def make(out: Path, logits: np.ndarray, labels: np.ndarray, **options: object) -> ShardSet:
    keys = [f"{number:03}" for number in range(len(labels))]
    source = ImageSource(Rows(labels), keys)
    settings = {"samples": 2, "topk": CLASSES, "probs_dtype": "float32", **options}
    return ShardSet(
        make_set(out, source, teacher=Answers(logits), policy_=policy("rrc"), **settings)  # type: ignore[arg-type]
    )


def dense_probs(shards: ShardSet) -> np.ndarray:
    classes, probs = average_answers(shards, range(len(shards)))
    dense = np.zeros((len(shards), shards.manifest.num_classes))
    rows, columns = np.nonzero(classes >= 0)
    dense[rows, classes[rows, columns]] = probs[rows, columns]
    return dense


def by_the_paper(labels: np.ndarray, probs: np.ndarray) -> dict[int, int]:
    """Equations 1 and 2, image by image."""
    thresholds = [
        probs[labels == c, c].mean() if (labels == c).any() else np.inf for c in range(CLASSES)
    ]
    found = {}
    for number, (label, row) in enumerate(zip(labels, probs, strict=True)):
        reached = [c for c in range(CLASSES) if row[c] >= thresholds[c] - 1e-6]
        if reached and (best := max(reached, key=lambda c: row[c])) != label:
            found[number] = best
    return found


@pytest.mark.parametrize("seed", range(4))
def test_suspects_are_those_of_the_paper_and_of_cleanlab(tmp_path: Path, seed: int) -> None:
    logits, labels = noisy(seed, sharpness=1.5 + seed / 2)
    shards = make(tmp_path / "set", logits, labels)
    probs = dense_probs(shards)
    found = {int(s.key): s for s in find_suspects([shards])}
    expected = by_the_paper(labels, probs)
    assert len(expected) > 5
    assert {number: s.suggested for number, s in found.items()} == expected

    count = pytest.importorskip("cleanlab.count")
    rank = pytest.importorskip("cleanlab.rank")
    _, theirs = count.compute_confident_joint(
        labels, probs, calibrate=False, return_indices_of_off_diagonals=True
    )
    # Where several classes reach their thresholds, cleanlab takes the most probable one of all,
    # which need not be among them; the paper does not.
    thresholds = count.get_confident_thresholds(labels, probs)
    reached = probs >= thresholds - 1e-6
    same = reached[np.arange(IMAGES), probs.argmax(1)] | (reached.sum(1) <= 1)
    assert {n for n in theirs if same[n]} == {n for n in found if same[n]}
    for sort, method in (("margin", "normalized_margin"), ("label_prob", "self_confidence")):
        scores = rank.get_label_quality_scores(labels, probs, method=method)
        for number, suspect in found.items():
            assert getattr(suspect, sort) == pytest.approx(scores[number], abs=1e-6)


@pytest.mark.parametrize("sort", ["margin", "label_prob"])
def test_the_most_suspicious_is_first(tmp_path: Path, sort: str) -> None:
    shards = make(tmp_path / "set", *noisy(0))
    found = find_suspects(shards, sort=sort)
    assert found == find_suspects(tmp_path / "set", sort=sort)
    values = [getattr(suspect, sort) for suspect in found]
    assert len(values) > 3
    assert values == sorted(values)


def test_folds_share_their_thresholds(tmp_path: Path) -> None:
    logits, labels = noisy(1)
    whole = make(tmp_path / "whole", logits, labels)
    every = find_suspects([whole])
    keys = [f"{number:03}" for number in range(IMAGES)]
    folds = []
    for fold in (0, 1):
        source = ImageSource(Rows(labels), keys).without(keys[fold::2])
        options = {"samples": 2, "topk": CLASSES, "probs_dtype": "float32"}
        folds.append(
            ShardSet(
                make_set(
                    tmp_path / str(fold),
                    source,
                    teacher=Answers(logits),
                    policy_=policy("rrc"),
                    **options,  # type: ignore[arg-type]
                )
            )
        )
    assert sorted(find_suspects(folds)) == sorted(every)
    with pytest.raises(SettingsMismatchError, match=re.escape(every[0].key)):
        find_suspects([whole, whole], labels=[every[0].label])


def test_a_class_below_the_kept_ones_may_be_confident() -> None:
    """Statistics keep five classes of an average; a class with a low threshold may be the sixth."""
    probs = np.array([[0.3, 0.25, 0.2, 0.1, 0.09, 0.06]])
    classes = np.arange(6)[None]
    thresholds = np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.05])
    found, _ = confident_classes(classes[:, :5], probs[:, :5], thresholds)
    assert found.tolist() == [-1]
    found, prob = confident_classes(classes, probs, thresholds)
    assert (found.tolist(), prob.tolist()) == ([5], [0.06])


def test_many_classes_with_low_thresholds(tmp_path: Path) -> None:
    """Class 5 is always the least probable, also of its own images; other unsure ones reach it."""
    numbers = np.arange(IMAGES)
    sure = numbers < 60
    labels = np.where(sure, numbers % 5, np.where(numbers % 2, 5, 0))
    logits = np.random.default_rng(5).normal(size=(IMAGES, CLASSES)) * 0.05
    logits[sure, labels[sure]] += 5
    logits[:, 5] -= 1.5
    shards = make(tmp_path / "set", logits, labels)
    expected = by_the_paper(labels, dense_probs(shards))
    assert 5 in expected.values()
    assert {int(s.key): s.suggested for s in find_suspects([shards])} == expected


def test_thresholds_of_classes_without_images() -> None:
    found = class_thresholds(np.array([0, 0]), np.array([0.25, 0.75]), 2)
    assert found.tolist() == [0.5, np.inf]


def test_images_without_labels_are_not_judged(tmp_path: Path) -> None:
    logits, labels = noisy(2)
    some = np.where(np.arange(IMAGES) % 2, labels, -1)
    found = find_suspects([make(tmp_path / "set", logits, some)])
    assert found
    assert all(int(suspect.key) % 2 for suspect in found)
    with pytest.raises(DatasetMismatchError):
        find_suspects([make(tmp_path / "none", logits, np.full(IMAGES, -1))])


def test_sets_of_other_classes_are_refused(tmp_path: Path) -> None:
    logits, labels = noisy(3)
    other = make(tmp_path / "b", logits[:, :4], labels % 4, topk=4)
    with pytest.raises(SettingsMismatchError):
        find_suspects([make(tmp_path / "a", logits, labels), other])


HOSTILE = '<img src=x onerror="alert(1)">&.png'


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, Path]:
    """An image folder with a hostile name and class, and a set in which each label is wrong."""
    root = make_photographs(tmp_path / "train", per_class=4, classes=("<b>a", "b", "c"))
    first = sorted((root / "<b>a").iterdir())[0]
    first.rename(first.with_name(HOSTILE))

    class Shifted(nn.Module):
        """Suggests other classes for some images."""

        def forward(self, views: torch.Tensor) -> torch.Tensor:
            means = views.float().mean((2, 3))
            return nn.functional.normalize(means - means.mean(1, keepdim=True)) * 3

    return root, make_set(tmp_path / "set", root, teacher=Shifted(), topk=3)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["suspects", *map(str, arguments), "--quiet"])
    assert result.exit_code == 0, result.output
    return result.output


def test_command_writes_all_forms(folder: tuple[Path, Path], tmp_path: Path) -> None:
    root, directory = folder
    found = find_suspects([ShardSet(directory)])
    assert found
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "json", "html", "txt")}
    run(
        directory,
        *("--csv", files["csv"], "--json", files["json"], "--keys", files["txt"]),
        *("--page", files["html"], "--images", root),
    )
    with open(files["csv"], newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    objects = json.loads(files["json"].read_text())
    keys = [suspect.key for suspect in found]
    assert [row["key"] for row in table] == [row["key"] for row in objects] == keys
    assert files["txt"].read_text().splitlines() == keys
    names = ShardSet(directory).manifest.settings["class_names"]
    assert [row["suggested"] for row in table] == [names[s.suggested] for s in found]
    assert [row["margin"] for row in objects] == pytest.approx([s.margin for s in found], abs=1e-6)

    page = Tags(files["html"].read_text())
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == len(found)
    assert all(str(each["src"]).startswith("data:image/") for each in pictures)
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "b" not in {tag for tag, _ in page.tags}
    assert all(key in page.text for key in keys)


def test_a_table_is_written_where_a_link_points(folder: tuple[Path, Path], tmp_path: Path) -> None:
    link, table = tmp_path / "link", tmp_path / "table.csv"
    link.symlink_to(table)  # as /dev/stdout is, which must stay
    run(folder[1], "--csv", link)
    assert link.is_symlink()
    assert table.read_text().startswith("key,")


def test_command_selects(folder: tuple[Path, Path], tmp_path: Path) -> None:
    _, directory = folder
    label = find_suspects([ShardSet(directory)])[0].label
    name = ShardSet(directory).manifest.settings["class_names"][label]
    out = tmp_path / "some.json"
    run(directory, "--class", name, "--sort", "self-confidence", "--json", out)
    assert {row["label"] for row in json.loads(out.read_text())} == {name}
    run(directory, "--top", 1, "--json", out)
    assert len(json.loads(out.read_text())) == 1
    assert "suspects among 12 images" in run(directory)
    assert CliRunner().invoke(main, ["suspects", str(directory), "--class", "z"]).exit_code == 2


def test_a_page_needs_the_image_of_each_suspect(folder: tuple[Path, Path], tmp_path: Path) -> None:
    found = find_suspects([ShardSet(folder[1])])
    source = open_source(str(folder[0]))
    shards = ShardSet(folder[1])
    pictures = StoredPictures(source.without([found[0].key]), shards)
    with pytest.raises(UnknownImageError):
        write_page(found, None, tmp_path / "page.html", title="", pictures=[pictures])


def test_a_page_shows_no_image_that_has_changed(folder: tuple[Path, Path], tmp_path: Path) -> None:
    root, directory = folder
    changed = tmp_path / "changed"
    shutil.copytree(root, changed)
    for path in changed.rglob("*.JPEG"):
        Image.new("RGB", Image.open(path).size).save(path)
    page = tmp_path / "page.html"
    arguments = ["suspects", str(directory), "--page", str(page), "--quiet", "--images"]
    result = CliRunner().invoke(main, [*arguments, str(changed)])
    assert (result.exit_code, page.exists()) == (1, False)


def test_a_page_of_folds_shows_each_one_s_images(tmp_path: Path) -> None:
    root = make_photographs(tmp_path / "photographs")
    source = open_source(str(root))
    folds = [source.without(source.keys[i::2]) for i in range(2)]
    sets = [make_set(tmp_path / f"fold{i}", fold, topk=3) for i, fold in enumerate(folds)]
    suspects = find_suspects([ShardSet(each) for each in sets])
    page = tmp_path / "page.html"
    run(*sets, "--page", page, "--images", root)
    assert suspects
    assert page.read_text().count("<img") == len(suspects)
