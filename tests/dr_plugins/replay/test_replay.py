from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from dr_plugins.errors import (
    DatasetMismatchError,
    FormatError,
    ImageChangedError,
    ImageReadError,
    UnknownImageError,
)
from dr_plugins.images.sources import ImageSource
from dr_plugins.replay.deferred import join
from dr_plugins.replay.replayer import Replayer, fingerprint
from dr_plugins.shards.reader import ShardSet
from tests.tiny import CLASSES, make_photographs, photograph

Sets = Callable[..., Path]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Photographs like the shared ones, to be changed."""
    return make_photographs(tmp_path / "own")


def replayer(root: Path, directory: Path) -> Replayer:
    return Replayer(ImageSource(ImageFolder(str(root))), ShardSet(directory))


def records_of(replay: Replayer, index: int) -> list[Any]:
    samples = replay.shards.manifest.samples
    rows = np.full(samples, replay.rows[index])
    return replay.policy.decode(replay.shards.read(rows, np.arange(samples)))


def position(replay: Replayer, key: str) -> int:
    return list(replay.source.keys).index(key)


# --- fingerprints ---------------------------------------------------------------------------------


def test_fingerprint_covers_the_pixels_channel_by_channel() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (5, 7, 3), np.uint8)
    planar = torch.from_numpy(values.transpose(2, 0, 1).copy())
    interleaved = torch.from_numpy(values).permute(2, 0, 1)
    expected = hashlib.blake2b(values.transpose(2, 0, 1).tobytes(), digest_size=8).digest()
    assert fingerprint(planar) == fingerprint(interleaved) == expected


def test_fingerprint_is_the_specified_one_of_a_known_view() -> None:
    view = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
    expected = hashlib.blake2b(bytes(range(48)), digest_size=8).digest()
    assert fingerprint(view) == expected
    view[0, 0, 0] = 1
    assert fingerprint(view) != expected


@pytest.mark.parametrize("backend", ["pil", "tensor"])
@pytest.mark.parametrize("name", ["randaug", "randaug_mixing"])
def test_exactly_one_sample_of_each_image_is_on_record(
    photographs: Path, shard_sets: Sets, name: str, backend: str
) -> None:
    replay = replayer(photographs, shard_sets(name, backend))
    for index in range(len(replay.source)):
        marked = [replay.is_fingerprinted(index, s) for s in range(6)]
        assert marked.index(True) == replay.rows[index] % 6
        assert sum(marked) == 1
        stored = replay.shards.image(int(replay.rows[index])).fingerprint
        for sample, params in enumerate(records_of(replay, index)):
            view, _ = replay.view(index, params)
            if marked[sample]:
                assert fingerprint(view) == stored
                replay.check(index, view)
            elif fingerprint(view) != stored:
                with pytest.raises(ImageChangedError, match="does not replay"):
                    replay.check(index, view)


# --- joining by key -------------------------------------------------------------------------------


def test_rows_follow_the_keys_not_the_order(photographs: Path, shard_sets: Sets) -> None:
    folder = ImageFolder(str(photographs))
    shards = ShardSet(shard_sets())
    order = np.random.default_rng(0).permutation(12)
    replay = Replayer(ImageSource(Subset(folder, order.tolist())), shards)
    assert [shards.keys[row] for row in replay.rows] == list(replay.source.keys)
    for index in range(12):
        image, label = replay.load(index)
        with Image.open(photographs / replay.source.keys[index]) as expected:
            assert np.array_equal(np.asarray(image), np.asarray(expected))
        assert label == CLASSES.index(replay.source.keys[index][:3])


def test_partners_are_found_by_key(photographs: Path, shard_sets: Sets) -> None:
    folder = ImageFolder(str(photographs))
    directory = shard_sets("randaug_mixing")
    forwards = replayer(photographs, directory)
    backwards = Replayer(ImageSource(Subset(folder, list(range(11, -1, -1)))), ShardSet(directory))
    mixed = 0
    for index in range(12):
        for params in records_of(forwards, index):
            view, label = forwards.view(index, params)
            other, other_label = backwards.view(11 - index, params)
            assert torch.equal(view, other)
            assert label == other_label == (-1 if params.partner is not None else label)
            if params.partner is not None:
                mixed += 1
                key = forwards.shards.keys[params.partner]
                partner = Image.open(photographs / key).convert("RGB")
                image = Image.open(photographs / forwards.source.keys[index]).convert("RGB")
                assert torch.equal(view, forwards.policy.apply(image, params, partner))
    assert mixed > 30


@pytest.mark.parametrize("backend", ["pil", "tensor"])
@pytest.mark.parametrize("name", ["rrc", "randaug_mixing", "cifar"])
def test_views_that_are_begun_and_finished_are_the_same(
    photographs: Path, shard_sets: Sets, name: str, backend: str
) -> None:
    replay = replayer(photographs, shard_sets(name, backend))
    for index in range(12):
        for params in records_of(replay, index):
            cropped = join([replay.cropped_view(index, params)[0]])
            assert torch.equal(cropped.to("cpu")[0], replay.view(index, params)[0])


def test_a_missing_partner_is_named(photographs: Path, shard_sets: Sets) -> None:
    folder, directory = ImageFolder(str(photographs)), shard_sets("mixing")
    most = Subset(folder, [i for i in range(len(folder)) if i != 5])
    name = ImageSource(folder).keys[5].replace(".", r"\.")
    with pytest.raises(UnknownImageError, match=rf" 1 of .* such as '{name}'"):
        Replayer(ImageSource(most), ShardSet(directory))


def test_an_unknown_image_is_named(own: Path, shard_sets: Sets) -> None:
    photograph(0, 9, 9).save(own / "n02" / "new.png")
    with pytest.raises(UnknownImageError, match=r"1 image\(s\).*'n02/new\.png'"):
        replayer(own, shard_sets())


# --- changed images -------------------------------------------------------------------------------


def test_another_size_is_noticed(own: Path, shard_sets: Sets) -> None:
    replay = replayer(own, shard_sets())
    index = position(replay, "n02/n02_9.JPEG")
    path = own / "n02" / "n02_9.JPEG"
    height, width = replay.shards.image(int(replay.rows[index])).size
    photograph(1, height, width + 1).save(path)
    message = rf"'n02/n02_9\.JPEG' is {height}x{width + 1} pixels, but {height}x{width} when"
    with pytest.raises(ImageChangedError, match=message):
        replay.load(index)


def test_a_changed_partner_is_noticed(own: Path, shard_sets: Sets) -> None:
    replay = replayer(own, shard_sets("mixing"))
    for index in range(12):
        for params in records_of(replay, index):
            if params.partner is not None and params.partner != replay.rows[index]:
                path = own / replay.shards.keys[params.partner]
                path.unlink()
                name = path.name.replace(".", r"\.")
                with pytest.raises(ImageReadError, match=name):
                    replay.view(index, params)
                photograph(1, 9, 9).save(path)
                with pytest.raises(ImageChangedError, match=rf"{name}' is 9x9 pixels"):
                    replay.view(index, params)
                return
    raise AssertionError("no image was mixed")


def test_a_partner_that_no_set_has_is_a_typed_error(own: Path, shard_sets: Sets) -> None:
    replay = replayer(own, shard_sets("mixing"))
    mixed = next(p for i in range(12) for p in records_of(replay, i) if p.partner is not None)
    with pytest.raises(FormatError, match="row 1000000"):
        replay.view(0, mixed._replace(partner=1_000_000))


@pytest.mark.parametrize("name", ["rrc", "cifar"])
def test_a_crop_outside_of_its_image_is_a_typed_error(
    own: Path, shard_sets: Sets, name: str
) -> None:
    """Where the sizes of the images are not on record, as in some imported sets."""
    replay = replayer(own, shard_sets(name))
    (params, *_) = records_of(replay, 0)
    far = (60_000, 60_000, 8, 8)[: len(params.view[0])]
    for compute in (replay.view, replay.cropped_view):
        compute(0, params)
        with pytest.raises(ImageChangedError, match=r"n0.*60000"):
            compute(0, params._replace(view=[far, *params.view[1:]]))


def test_changed_content_is_noticed(own: Path, shard_sets: Sets) -> None:
    replay = replayer(own, shard_sets("rrc"))
    index = position(replay, "n01/n01_2.JPEG")
    height, width = replay.shards.image(int(replay.rows[index])).size
    photograph(77, height, width).save(own / "n01" / "n01_2.JPEG")
    sample = int(replay.rows[index]) % 6
    view, _ = replay.view(index, records_of(replay, index)[sample])
    with pytest.raises(ImageChangedError, match=r"'n01/n01_2\.JPEG' does not replay.*pillow"):
        replay.check(index, view)


def test_another_label_is_noticed(photographs: Path, shard_sets: Sets) -> None:
    folder = ImageFolder(str(photographs), target_transform=lambda label: 2 - label)
    replay = Replayer(ImageSource(folder), ShardSet(shard_sets()))
    with pytest.raises(DatasetMismatchError, match="has label 2, but 0 when it was reinforced"):
        replay.load(0)
    assert replay.load(4)[1] == 1  # the middle class is the same either way


def test_a_label_out_of_range_is_noticed(photographs: Path, shard_sets: Sets) -> None:
    folder = ImageFolder(str(photographs), target_transform=lambda label: label + 3)
    replay = Replayer(ImageSource(folder), ShardSet(shard_sets()))
    with pytest.raises(DatasetMismatchError, match="has label 3, but the shard set has 3 classes"):
        replay.load(0)


def test_unknown_labels_are_no_mismatch(photographs: Path, shard_sets: Sets) -> None:
    folder = ImageFolder(str(photographs), target_transform=lambda label: -1)
    replay = Replayer(ImageSource(folder), ShardSet(shard_sets()))
    assert {replay.load(i)[1] for i in range(12)} == {-1}


def test_a_moved_set_and_moved_images(tmp_path: Path, own: Path, shard_sets: Sets) -> None:
    moved = shutil.copytree(shard_sets(), tmp_path / "elsewhere")
    replay = replayer(own, moved)
    for index in range(12):
        sample = int(replay.rows[index]) % 6
        replay.check(index, replay.view(index, records_of(replay, index)[sample])[0])
