from __future__ import annotations

import json
import os
import random
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dr_plugins import ReinforcedDataset, ShardSet
from dr_plugins.errors import DatasetMismatchError, ImageChangedError, ImageReadError
from dr_plugins.images.decoding import open_image
from dr_plugins.images.sources import open_source
from dr_plugins.mldr import (
    AlignmentError,
    ArchiveError,
    ImageOrder,
    ImportSettings,
    UnsafePickleError,
    import_archives,
    normalization,
    replay_normalized,
)
from dr_plugins.mldr.archive import iter_members
from dr_plugins.mldr.serialization import load_member
from dr_plugins.mldr.worker import Worker
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.targets import SparseTargets
from dr_plugins.tools.describe import describe
from dr_plugins.tools.verify import verify
from tests.dr_plugins.test_mldr_replay import needs_pillow_13

from .conftest import (
    CROPFLIP,
    Members,
    config_of,
    cropflip_content,
    files_of,
    order_of,
    saved,
    shares,
    write_tar,
)

LOSSLESS = ImportSettings(probs_dtype="float32")
LAYOUTS = ("compressed", "uncompressed")
POLICIES = ("cropflip", "mixing", "randaug", "randaug_mixing", "cifar")


GOLDEN_SETS = [(policy, layout, 0) for policy in POLICIES for layout in LAYOUTS]


@needs_pillow_13
@pytest.mark.parametrize(
    ("policy", "layout", "workers"), [*GOLDEN_SETS, ("randaug_mixing", "compressed", 2)]
)
def test_golden_archives_replay_bit_for_bit(
    golden: Path, tmp_path: Path, policy: str, layout: str, workers: int
) -> None:
    """Imported, stored, read back and replayed: what ml-dr's own training loop produced."""
    folder = golden / layout
    images = folder / "images" / "train"
    settings = ImportSettings(1000, "float32", min_agreement=0, workers=workers)
    import_archives([folder / f"{policy}.tar.gz"], order_of(images), tmp_path / "set", settings)
    assert verify(tmp_path / "set", open_source(str(images))).problems == []
    shards = ShardSet(tmp_path / "set")
    mean, std = normalization(shards)
    names = json.loads((folder / "meta.json").read_text())["sets"][policy]["samples_order"]
    with np.load(folder / f"{policy}.npz") as expected:
        replayed, sums = expected["replayed"], expected["dense_smooth_sum"]
        tops = expected["dense_smooth_top"]
    assert replayed.shape[:2] == (len(shards), shards.manifest.samples)
    for index, sample in np.ndindex(replayed.shape[:2]):
        record = shards[names[index], sample]
        (params,) = stored_policy(shards).decode(np.array([record]))
        partner = None
        if params.partner is not None:
            key = shards.keys[params.partner]
            partner = open_image(images / key, key)
        image = open_image(images / names[index], names[index])
        view = replay_normalized(stored_policy(shards), image, params, partner, mean=mean, std=std)
        assert view.numpy().tobytes() == replayed[index, sample].tobytes()
        student = stored_policy(shards).apply(image, params, partner).double()
        levels = torch.from_numpy(replayed[index, sample]).double()
        levels = (levels * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)) * 255
        assert (student - levels).abs().max() < (1e-4 if partner is None else 0.502)
        targets = SparseTargets(record["ids"].astype(int), record["probs"].copy(), num_classes=1000)
        dense = targets.dense("smooth")
        assert float(dense.sum()) == pytest.approx(float(sums[index, sample]), abs=2e-6)
        np.testing.assert_allclose(dense.topk(12).values, tops[index, sample], rtol=1e-6)


def test_golden_set_in_a_dataset(golden: Path, tmp_path: Path) -> None:
    folder = golden / "compressed"
    source = open_source(str(folder / "images" / "train"))
    settings = ImportSettings(1000, min_agreement=0)
    report = import_archives(
        [folder / "randaug_mixing.tar.gz"], ImageOrder.of_source(source), tmp_path / "s", settings
    )
    assert shares(report) == [0.0]
    train = ReinforcedDataset(source, tmp_path / "s", p=1.0)
    batch, targets = train.collate(train.__getitems__([0, 3, 7]))
    assert batch.shape == (3, 3, 40, 40)
    assert tuple(targets.shape) == (3, 1000)
    text = describe(ShardSet(tmp_path / "s"))
    assert "ml-dr, randaug_mixing.tar.gz:reinforced_data; mixed views are rounded" in text


def test_an_aligned_archive(images: Path, tmp_path: Path, archive: Path) -> None:
    report = import_archives([archive], order_of(images), tmp_path / "set", LOSSLESS)
    assert shares(report) == [1.0]
    shards = ShardSet(tmp_path / "set")
    settings = shards.manifest.settings
    assert settings["class_names"] == [f"n{label:08d}" for label in range(4)]
    assert settings["origin"]["archives"] == [{"name": "a.tar.gz:reinforced_data", "samples": 3}]
    # Number 1 is the second file by name (10026, 18, 2), and row 1 as well.
    _, reinforcements = cropflip_content(1, 0)
    record = shards["n00000000/n00000000_18.png", 2]
    assert record["crop"].tolist() == list(reinforcements[2]["params"][0])
    assert shards.image(1).size == (40, 48)
    assert shards.image(1).label == 0
    assert shards.manifest.layout.itemsize == 8 + 1 + 2 * (2 + 4) + 4
    assert not (tmp_path / "set" / "importing").exists()


def test_keys_and_numbers_may_be_ordered_differently(tmp_path: Path, archive: Path) -> None:
    # Upper case sorts before lower case by bytes; a file list may have any order.
    keys = [f"{'aBcD'[i // 3]}/{i}.png" for i in range(12)]
    keys = keys[6:] + keys[:6]
    (tmp_path / "list").write_text("\n".join(keys) + "\n")
    order = ImageOrder.of_list(tmp_path / "list")
    assert order.class_names == ["B", "D", "a", "c"]
    import_archives([archive], order, tmp_path / "set", ImportSettings(min_agreement=0))
    shards = ShardSet(tmp_path / "set")
    for index, key in enumerate(keys):
        stored = cropflip_content(index, index // 3)[1][1]["params"][0]
        assert shards[key, 1]["crop"].tolist() == list(stored)


def test_probabilities_are_halved_by_default(images: Path, tmp_path: Path, archive: Path) -> None:
    import_archives([archive], order_of(images), tmp_path / "half")
    import_archives([archive], order_of(images), tmp_path / "full", LOSSLESS)
    half, full = ShardSet(tmp_path / "half"), ShardSet(tmp_path / "full")
    assert half[5, 1]["probs"].dtype == np.float16
    exact = sorted(cropflip_content(5, 1)[1][1]["prob"][0], reverse=True)
    assert full[5, 1]["probs"].tolist() == np.float32(exact).tolist()
    assert half[5, 1]["probs"].tolist() == np.float16(exact).tolist()


@pytest.mark.parametrize("form", ["tar", "directory", "gzip"])
def test_all_forms_of_an_archive_give_the_same_set(
    images: Path, tmp_path: Path, members: Members, form: str
) -> None:
    tar = write_tar(tmp_path / "a.tar", members(), "w")
    paths = {"tar": tar, "gzip": tmp_path / "a.tar.gz", "directory": tmp_path / "unpacked"}
    write_tar(paths["gzip"], members())
    with tarfile.open(tar) as file:
        file.extractall(paths["directory"], filter="data")
    import_archives([paths[form]], order_of(images), tmp_path / "set")
    import_archives([tar], order_of(images), tmp_path / "reference")
    found, expected = ShardSet(tmp_path / "set"), ShardSet(tmp_path / "reference")
    for field in expected.manifest.layout.fields:
        assert found.records(0)[field.name].tobytes() == expected.records(0)[field.name].tobytes()
    digests = [s.manifest.settings["archive_digests"] for s in (found, expected)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("together", [True, False])
def test_sets_are_merged(images: Path, tmp_path: Path, members: Members, together: bool) -> None:
    """Two archives, or one with two folders: the reinforcements add up, in order."""
    first, second = members("a", 3, 0), members("b", 2, 7)
    if together:
        archives = [write_tar(tmp_path / "both.tar.gz", second + first)]
    else:
        archives = [
            write_tar(tmp_path / "1.tar.gz", first),
            write_tar(tmp_path / "2.tar.gz", second),
        ]
    report = import_archives(archives, order_of(images), tmp_path / "set")
    assert shares(report) == [1.0, 1.0]
    shards = ShardSet(tmp_path / "set")
    assert shards.manifest.samples == 5
    for index, key in enumerate(order_of(images).keys):
        stored = [
            r["params"][0]
            for s in (3, 2)
            for r in cropflip_content(index, index // 3, s, 0 if s == 3 else 7)[1]
        ]
        assert [tuple(shards[key, n]["crop"].tolist()) for n in range(5)] == stored


def test_a_set_is_not_merged_with_itself(images: Path, tmp_path: Path, members: Members) -> None:
    tar, gzip = write_tar(tmp_path / "1.tar", members(), "w"), tmp_path / "2.tar.gz"
    with pytest.raises(DatasetMismatchError, match=r"1\.tar:.*2\.tar\.gz"):
        import_archives([tar, write_tar(gzip, members())], order_of(images), tmp_path / "set")


def test_sets_of_different_kinds_are_not_merged(
    images: Path, tmp_path: Path, members: Members
) -> None:
    first = write_tar(tmp_path / "1.tar.gz", members())
    other = [m for m in members("b") if "config" not in m[0]]
    wide = {**CROPFLIP, "random_resized_crop": {"size": 64}}
    other.append(("b/config.pth.tar", saved(config_of(wide), 2)))
    second = write_tar(tmp_path / "2.tar.gz", other)
    with pytest.raises(DatasetMismatchError, match=r"2\.tar\.gz:b and 1\.tar\.gz.*policy"):
        import_archives([first, second], order_of(images), tmp_path / "set")


def test_another_class_order_is_noticed(images: Path, tmp_path: Path, archive: Path) -> None:
    keys = list(order_of(images).keys)
    (tmp_path / "list").write_text("\n".join(keys[3:] + keys[:3]))
    order = ImageOrder.of_list(tmp_path / "list", images)
    with pytest.raises(AlignmentError, match=r"0\.0% of 12 images"):
        import_archives([archive], order, tmp_path / "set")
    assert not (tmp_path / "set" / "manifest.json").exists()
    # A lower threshold resumes with the existing records.
    import_archives([archive], order, tmp_path / "set", ImportSettings(min_agreement=0))


def test_two_exchanged_classes_are_noticed(tmp_path: Path) -> None:
    """Most images agree all the same."""
    classes, each = 20, 8
    keys = [f"c{label:02d}/{number}.png" for label in range(classes) for number in range(each)]
    swapped = keys[:16] + keys[24:32] + keys[16:24] + keys[32:]
    named = [("config.pth.tar", saved({**config_of(CROPFLIP), "num_classes": classes}))]
    for index in range(len(keys)):
        _, reinforcements = cropflip_content(index, 0)
        for one in reinforcements:
            one["prob"] = ([0.9, 0.08], [index // each, (index // each + 1) % classes])
        named.append((f"{index}.pth.tar", saved((index, reinforcements))))
    archive = write_tar(tmp_path / "a.tar.gz", named)
    (tmp_path / "right").write_text("\n".join(keys))
    import_archives([archive], ImageOrder.of_list(tmp_path / "right"), tmp_path / "set")
    (tmp_path / "swapped").write_text("\n".join(swapped))
    order = ImageOrder.of_list(tmp_path / "swapped")
    with pytest.raises(AlignmentError, match=r"'c02'.*'c03'.*8 of 8 images"):
        import_archives([archive], order, tmp_path / "other")
    report = import_archives([archive], order, tmp_path / "other", ImportSettings(min_agreement=0))
    assert report.agreement[0] is not None
    assert report.agreement[0].share == 0.9
    wrong = [one for one in report.agreement[0].classes if one.agreeing < one.images]
    assert [(one.label, one.agreeing, one.mode) for one in wrong] == [(2, 0, 3), (3, 0, 2)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_partner_that_does_not_fit_is_refused(golden: Path, tmp_path: Path, layout: str) -> None:
    """The views of a smaller image would end training, whenever another one mixes it in."""
    root = tmp_path / "train"
    shutil.copytree(golden / layout / "images" / "train", root)
    archive = golden / layout / "mixing.tar.gz"
    settings = ImportSettings(1000, min_agreement=0)
    partners = {}
    for member, read in iter_members(archive):
        if member.index is not None:
            for one in load_member(read())[1]:
                params = one["params"]
                number = params[0] if isinstance(params, list) else params["id2"]
                partners.setdefault(number, member.index)
    number = next(p for p, index in partners.items() if p is not None and p != index)
    keys = order_of(root).keys
    # Only the partners' crops can exceed the image: all others are in the corner.
    Image.new("RGB", (8, 8)).save(root / keys[number])
    named = []
    for member, read in iter_members(archive):
        content = load_member(read())
        if member.index == number:
            content = (number, [_cropped_to_a_corner(one) for one in content[1]])
        named.append((member.name, saved(content)))
    other = write_tar(tmp_path / "a.tar.gz", named)
    with pytest.raises(AlignmentError, match=r"partners of image.*it is 8x8 pixels"):
        import_archives([other], order_of(root), tmp_path / "set", settings)


def test_a_smaller_image_in_training_is_a_typed_error(
    images: Path, tmp_path: Path, archive: Path
) -> None:
    """Of a set that was imported without looking at the images."""
    keys = order_of(images).keys
    (tmp_path / "list").write_text("\n".join(keys))
    import_archives([archive], ImageOrder.of_list(tmp_path / "list"), tmp_path / "set")
    Image.new("RGB", (8, 8)).save(images / keys[4])
    train = ReinforcedDataset(open_source(str(images)), tmp_path / "set", p=1.0)
    train.__getitems__([3, 5])
    with pytest.raises(ImageChangedError, match=keys[4]):
        train.__getitems__([4])


def _cropped_to_a_corner(one: dict[str, Any]) -> dict[str, Any]:
    corner, params = (0, 0, 8, 8), one["params"]
    if isinstance(params, dict):
        pair = (corner, params["random_resized_crop"][1])
        return {**one, "params": {**params, "random_resized_crop": pair}}
    box = params[1] if params[0] is None else [corner, params[1][1]]
    return {**one, "params": [params[0], corner if params[0] is None else box, *params[2:]]}


def test_another_order_within_a_class_is_noticed_by_its_crops(
    images: Path, tmp_path: Path, archive: Path
) -> None:
    Image.new("RGB", (48, 30)).save(images / "n00000002" / "n00000002_2.png")
    with pytest.raises(AlignmentError, match=r"'n00000002/n00000002_2\.png'.*30x48"):
        import_archives([archive], order_of(images), tmp_path / "set")


def test_unknown_labels_need_the_flag(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "list").write_text("\n".join(f"{i}.png" for i in range(12)))
    order = ImageOrder.of_list(tmp_path / "list")
    with pytest.raises(AlignmentError, match="no label is known"):
        import_archives([archive], order, tmp_path / "set")
    settings = ImportSettings(min_agreement=0)
    assert import_archives([archive], order, tmp_path / "set", settings).agreement == [None]


def test_the_wrong_number_of_images(images: Path, tmp_path: Path, archive: Path) -> None:
    (images / "n00000003" / "n00000003_2.png").unlink()
    with pytest.raises(ArchiveError, match="image number 11, but there are only 11"):
        import_archives([archive], order_of(images), tmp_path / "set")
    for name in ("3", "4"):
        Image.new("RGB", (48, 40)).save(images / "n00000003" / f"n00000003_{name}.png")
    message = r"covers 12 of 13 images.*'n00000003/n00000003_4\.png' \(number 12\)"
    with pytest.raises(ArchiveError, match=message):
        import_archives([archive], order_of(images), tmp_path / "set")


def test_a_set_of_other_classes(images: Path, tmp_path: Path, archive: Path) -> None:
    shutil.copytree(images / "n00000000", images / "n00000009")
    with pytest.raises(ArchiveError, match="covers 12 of 15"):
        import_archives([archive], order_of(images), tmp_path / "set")
    shutil.rmtree(images / "n00000009")
    shutil.move(images / "n00000003", tmp_path / "aside")
    for file in (tmp_path / "aside").iterdir():
        shutil.move(file, images / "n00000002")
    with pytest.raises(DatasetMismatchError, match=r"3 classes, the archive's dataset has 4"):
        import_archives([archive], order_of(images), tmp_path / "set")


class _Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_attack_is_named_with_its_member(
    images: Path, tmp_path: Path, members: Members, workers: int, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    index, reinforcements = cropflip_content(8, 2)
    reinforcements[1]["params"][1] = _Attack()
    hostile = ("reinforced_data/8.pth.tar", saved((index, reinforcements)))
    named = [hostile if name == hostile[0] else (name, data) for name, data in members()]
    named.sort(key=lambda member: member[0] == hostile[0])  # not the one that is looked at first
    archive = write_tar(tmp_path / "a.tar.gz", named)
    message = r"a\.tar\.gz, member 'reinforced_data/8\.pth\.tar'.*posix\.system"
    with pytest.raises(UnsafePickleError, match=message):
        import_archives([archive], order_of(images), "set", ImportSettings(workers=workers))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["reinforced_data/config.pth.tar", "reinforced_data/3.pth.tar"])
def test_an_attack_on_the_first_look(
    images: Path, tmp_path: Path, members: Members, name: str, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [(name, saved(_Attack()))] + [m for m in members() if m[0] != name]
    archive = write_tar(tmp_path / "a.tar.gz", named)
    with pytest.raises(UnsafePickleError, match=name):
        import_archives([archive], order_of(images), "set")
    assert not (tmp_path / "pwned").exists()


def test_incomplete_archives(images: Path, tmp_path: Path, members: Members) -> None:
    everything = members()

    def attempt(named: list[tuple[str, bytes]], message: str) -> None:
        archive = write_tar(tmp_path / "a.tar.gz", named)
        with pytest.raises(ArchiveError, match=message):
            import_archives([archive], order_of(images), tmp_path / f"set {message}")

    attempt([m for m in everything if "config" not in m[0]], r"there is no config\.pth\.tar")
    attempt([m for m in everything if "/5." not in m[0]], "11 of 12")
    attempt([*everything, everything[0 if "config" not in everything[0][0] else 1]], "occurs twice")
    config = next(m for m in everything if "config" in m[0])
    attempt([*everything, config], "two configurations")
    folders = [(f"{i}/0.pth.tar", everything[0][1]) for i in range(100)]
    attempt(folders, "more than 32 folders")
    attempt([("README", b"nothing")], r"\{number\}\.pth\.tar")
    short = ("reinforced_data/0.pth.tar", saved(cropflip_content(0, 0, samples=2)))
    rest = [m for m in everything if m[0] != short[0]]
    attempt([*rest, short], r"0\.pth\.tar.* 2 .* 3")
    moved = ("reinforced_data/0.pth.tar", saved(cropflip_content(1, 0)))
    attempt([*rest, moved], r"0\.pth\.tar.*image 1")


@pytest.mark.parametrize("workers", [0, 1])
def test_all_unreadable_images_are_named_at_once(
    images: Path, tmp_path: Path, archive: Path, workers: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(Worker, "store", None)  # nothing is decoded before
    order = order_of(images)
    (images / "n00000001" / "n00000001_2.png").unlink()
    (images / "n00000003" / "n00000003_18.png").write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"(?s)^2 of 12.*00001_2\.png.*00003_18\.png"):
        import_archives([archive], order, tmp_path / "set", ImportSettings(workers=workers))


def test_the_order_of_members_does_not_matter(
    images: Path, tmp_path: Path, members: Members
) -> None:
    named = members()
    import_archives([write_tar(tmp_path / "a.tar.gz", named)], order_of(images), tmp_path / "a")
    random.Random(0).shuffle(named)
    (tmp_path / "other").mkdir()
    archive = write_tar(tmp_path / "other" / "a.tar.gz", named)
    import_archives([archive], order_of(images), tmp_path / "b", ImportSettings(workers=2))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.parametrize("line", ["/etc/passwd", "../a.png", "a//b.png", "./a.png", ""])
def test_file_lists_hold_plain_paths(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(f"a/1.png\n{line}\nb/2.png\n")
    with pytest.raises(DatasetMismatchError, match="line 2"):
        ImageOrder.of_list(tmp_path / "list")
