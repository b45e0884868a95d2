"""Each published layout, by small imitations; and what the usual mistake with it would give."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dr_plugins.errors import EvaluationError
from dr_plugins.evaluation import SUITES, ImageSet, evaluate, find_sets
from tests.dr_plugins.evaluation.imitations import (
    CLASSES,
    COUNT,
    WNIDS,
    draw,
    draw_classes,
    draw_imagenet,
    draw_objectnet,
    model,
    shades,
    softmax_of,
)


def find_one(suite: str, root: Path) -> ImageSet:
    sets, missing = find_sets([suite], [root], CLASSES)
    assert not missing
    assert [each.name for each in sets] == [suite]
    return sets[0]


def by_hand(images: ImageSet, classes: list[int], labels: list[int]) -> dict[str, float]:
    probs = softmax_of(images.root, images.files, classes)
    rows = np.arange(len(labels))
    one_hot = np.eye(len(classes))[labels]
    return {
        "top1": (probs.argmax(1) == labels).mean(),
        "nll": -np.log(probs[rows, labels]).mean(),
        "brier": ((probs - one_hot) ** 2).sum(1).mean(),
    }


def check(images: ImageSet, out: Path, expected: dict[str, float]) -> None:
    metrics = evaluate(model(), images, out).scores.metrics()
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_imagenet(tmp_path: Path) -> None:
    draw_imagenet(tmp_path)
    images = find_one("imagenet", tmp_path)
    labels = [WNIDS.index(file.partition("/")[0]) for file in images.files]
    check(images, tmp_path / "out", by_hand(images, list(range(COUNT)), labels))
    assert images.expected == 50_000


def test_imagenet_v2_is_labelled_by_number_and_not_by_position(tmp_path: Path) -> None:
    root = tmp_path / "imagenetv2-matched-frequency-format-val"
    draw_classes(root, {str(label): label for label in range(COUNT)})
    (images,), missing = find_sets(["v2"], [tmp_path], CLASSES)
    assert list(missing) == ["v2/threshold0.7", "v2/top-images"]
    labels = [int(file.partition("/")[0]) for file in images.files]
    assert labels[5] == 1
    assert labels[10] == 10  # the third folder as text
    expected = by_hand(images, list(range(COUNT)), labels)
    check(images, tmp_path / "out", expected)
    as_text = np.repeat(np.arange(COUNT), 5)
    mistake = by_hand(images, list(range(COUNT)), list(as_text))
    assert mistake["top1"] < expected["top1"] / 2


@pytest.mark.parametrize(
    ("suite", "folder", "wnids"), [("r", "imagenet-r", CLASSES.r), ("a", "imagenet-a", CLASSES.a)]
)
def test_r_and_a_take_the_softmax_over_their_classes(
    tmp_path: Path, suite: str, folder: str, wnids: list[str]
) -> None:
    ids = [WNIDS.index(wnid) for wnid in wnids]
    draw_classes(tmp_path / folder, dict(zip(wnids, ids, strict=True)), 20)
    (tmp_path / folder / "README.txt").write_text("published with the images")
    images = find_one(suite, tmp_path)
    own = [wnids.index(file.partition("/")[0]) for file in images.files]
    expected = by_hand(images, ids, own)
    check(images, tmp_path / "out", expected)
    mistake = by_hand(images, list(range(COUNT)), [ids[each] for each in own])
    assert mistake["top1"] < expected["top1"]
    assert mistake["nll"] > expected["nll"]


@pytest.mark.parametrize("place", ["sketch", "imagenet-sketch", "imagenet-sketch/sketch"])
def test_sketch(tmp_path: Path, place: str) -> None:
    draw_classes(tmp_path / place, {wnid: label for label, wnid in enumerate(WNIDS)}, 2)
    images = find_one("sketch", tmp_path)
    labels = list(np.repeat(np.arange(COUNT), 2))
    check(images, tmp_path / "out", by_hand(images, list(range(COUNT)), labels))


def test_real_accepts_several_labels_and_leaves_images_without_one_out(tmp_path: Path) -> None:
    draw_imagenet(tmp_path)
    images = find_one("real", tmp_path)
    assert len(images) == 5 * COUNT - 1
    numbers = [int(file[-13:-5]) for file in images.files]
    assert 1 not in numbers
    predicted = softmax_of(images.root, images.files, list(range(COUNT))).argmax(1)
    right = [p in CLASSES.real[number - 1] for p, number in zip(predicted, numbers, strict=True)]
    metrics = evaluate(model(), images, tmp_path / "out").scores.metrics()
    assert metrics["top1"] == pytest.approx(np.mean(right))
    assert 0.2 < metrics["top1"] < 0.9


def test_real_works_on_files_without_class_folders(tmp_path: Path) -> None:
    draw_imagenet(tmp_path)
    flat = tmp_path / "flat" / "val"
    flat.mkdir(parents=True)
    for file in (tmp_path / "imagenet" / "val").glob("*/*"):
        shutil.copy(file, flat)
    images = find_one("real", tmp_path / "flat")
    assert len(images) == 5 * COUNT - 1
    _, missing = find_sets(["imagenet"], [tmp_path / "flat"], CLASSES)
    assert "class folders" in missing["imagenet"]


def test_real_knows_images_by_their_published_names_only(tmp_path: Path) -> None:
    for name in (f"ILSVRC2012_val_00000002_{WNIDS[0]}.JPEG", "ILSVRC2012_val_00000003.JPEG"):
        draw(tmp_path / "val" / WNIDS[0] / name, 0)  # as on the Hub, and as published
    images = find_one("real", tmp_path)
    assert [row.nonzero().flatten().tolist() for row in images.labels] == CLASSES.real[1:3]
    draw(tmp_path / "val" / WNIDS[0] / "cat.jpg", 0)
    sets, missing = find_sets(["real", "imagenet"], [tmp_path], CLASSES)
    assert [each.name for each in sets] == ["imagenet"]
    assert "cat.jpg" in missing["real"]


def test_objectnet(tmp_path: Path) -> None:
    draw_objectnet(tmp_path)
    images = find_one("objectnet", tmp_path)
    assert {file.partition("/")[0] for file in images.files} == {"chair", "desk_lamp"}
    # Shades 7, 6.8, 6.6, 6.4 and 5, 4.8, 4.6, 4.4: all but the last of each are right. With the
    # border, whose pixels are red, none is.
    cropped = model()
    cropped.transform = cropped.whole_transform
    assert evaluate(cropped, images, tmp_path / "out").scores.top1.tolist() == [1, 1, 1, 0] * 2
    bare = ImageSet("x", images.root, images.files, images.labels, COUNT)
    assert evaluate(cropped, bare, tmp_path / "out").scores.top1.sum() == 0
    assert images.labels[0].nonzero().flatten().tolist() == [2, 7]
    assert images.labels[4].nonzero().flatten().tolist() == [5]


def test_objectnet_with_a_mapping_that_does_not_fit(tmp_path: Path) -> None:
    draw_objectnet(tmp_path)
    mapping = tmp_path / "objectnet-1.0" / "mappings" / "imagenet_to_label_2012_v2"
    mapping.write_text(mapping.read_text().replace("table lamp", "lamp"))
    with pytest.raises(EvaluationError, match="mappings"):
        find_sets(["objectnet"], [tmp_path], CLASSES)
    mapping.unlink()
    _, missing = find_sets(["objectnet"], [tmp_path], CLASSES)
    assert "imagenet_to_label_2012_v2" in missing["objectnet"]


@pytest.mark.parametrize("group", ["", "weather"])
def test_published_corruptions_are_not_cropped_again(tmp_path: Path, group: str) -> None:
    for severity in (1, 5):
        root = tmp_path / "imagenet-c" / group / "fog" / str(severity)
        for label, wnid in enumerate(WNIDS):
            for number, shade in enumerate(shades(label, 3, severity)):
                draw(root / wnid / f"{number}.JPEG", shade, border=1)
    sets, missing = find_sets(["c"], [tmp_path], CLASSES)
    assert not missing
    assert [each.name for each in sets] == ["c/fog/1", "c/fog/5"]
    whole = evaluate(model(), sets[0], tmp_path / "out").scores.confidence
    cropped = model("cropping")
    cropped.whole_transform = cropped.transform
    again = evaluate(cropped, sets[0], tmp_path / "out").scores.confidence
    assert not np.allclose(whole, again)


def test_a_severity_without_images_leaves_the_others(tmp_path: Path) -> None:
    place = tmp_path / "imagenet-c" / "fog"
    (place / "2").mkdir(parents=True)
    assert "with images" in find_sets(["c"], [tmp_path], CLASSES)[1]["c"]
    draw_classes(place / "3", {WNIDS[0]: 0})
    sets, missing = find_sets(["c"], [tmp_path], CLASSES)
    assert [each.name for each in sets] == ["c/fog/3"]
    assert not missing


def test_folder_with_a_class_map(tmp_path: Path) -> None:
    draw_classes(tmp_path / "images", {"cat": 1, "dog": 0}, 4)
    names = [*"xyz", *(f"class {number}" for number in range(COUNT - 3))]
    names[1], names[0] = "cat", "dog"
    class_map = tmp_path / "classes.txt"
    class_map.write_text("\n".join(names))
    (images,), _ = find_sets(["folder"], [tmp_path / "images"], CLASSES, class_map)
    expected = by_hand(images, list(range(COUNT)), [1] * 4 + [0] * 4)
    check(images, tmp_path / "out", expected)


@pytest.mark.parametrize("names", [["class_2", "class_10"], ["apple", "Cat"]])
def test_an_order_of_classes_that_libraries_do_not_share(tmp_path: Path, names: list[str]) -> None:
    """timm numbers them as they are listed here, torchvision the other way round."""
    draw_classes(tmp_path / "images", {names[0]: 0, names[1]: 1}, 2)
    with pytest.raises(EvaluationError, match=f"{names[0]}.*{names[1]}"):
        find_sets(["folder"], [tmp_path / "images"], CLASSES)
    class_map = tmp_path / "classes.txt"
    class_map.write_text("\n".join(names))
    (images,), _ = find_sets(["folder"], [tmp_path / "images"], CLASSES, class_map)
    assert {
        file.partition("/")[0]: label
        for file, label in zip(images.files, images.labels.tolist(), strict=True)
    } == {names[0]: 0, names[1]: 1}


def test_a_set_may_be_in_any_of_several_directories(tmp_path: Path) -> None:
    draw_classes(tmp_path / "b" / "imagenet-sketch", {WNIDS[0]: 0})
    for _ in range(2):
        sets, _ = find_sets(["sketch"], [tmp_path / "a", tmp_path / "b"], CLASSES)
        assert len(sets[0]) == 5
        (tmp_path / "a" / "imagenet-sketch").mkdir(parents=True, exist_ok=True)  # and is empty


def test_missing_sets_are_listed(tmp_path: Path) -> None:
    suites = [each for each in SUITES if each != "folder"]
    sets, missing = find_sets(suites, [tmp_path], CLASSES)
    assert not sets
    assert set(missing) == {*suites, "v2/threshold0.7", "v2/top-images"}
    assert str(tmp_path / "imagenet-r") in missing["r"]


def test_a_missing_variant_is_not_replaced_by_another(tmp_path: Path) -> None:
    draw_classes(tmp_path / "imagenetv2-top-images-format-val", {"3": 3})
    sets, missing = find_sets(["v2", "v2+c"], [tmp_path], CLASSES)
    assert [each.name for each in sets] == ["v2/top-images"]
    assert list(missing) == ["v2", "v2/threshold0.7", "v2+c"]


@pytest.mark.parametrize("suite", ["imagnet", "c+c", ""])
def test_unknown_suites(tmp_path: Path, suite: str) -> None:
    with pytest.raises(EvaluationError, match="unknown suite"):
        find_sets([suite], [tmp_path], CLASSES)


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "imagenet-r").mkdir()
    loop = tmp_path / "imagenet-r" / CLASSES.r[0]
    loop.symlink_to(loop)
    with pytest.raises(EvaluationError, match=CLASSES.r[0]):
        find_sets(["r"], [tmp_path], CLASSES)


def test_a_folder_of_no_class(tmp_path: Path) -> None:
    draw_classes(tmp_path / "imagenet-r", {CLASSES.r[0]: 1, WNIDS[0]: 0})
    with pytest.raises(EvaluationError, match=WNIDS[0]):
        find_sets(["r"], [tmp_path], CLASSES)
