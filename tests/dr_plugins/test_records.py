from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_plugins.errors import FormatError
from dr_plugins.policies.policy import Policy
from dr_plugins.records import Field, RecordLayout, set_checksum, target_fields

PUBLISHED_BYTES = {"rrc": 65, "mixing": 90, "randaug": 73, "randaug_mixing": 104}


def layout_of(policy: str) -> RecordLayout:
    return RecordLayout((*Policy.load(policy).fields, *target_fields(10, 1000)))


@pytest.mark.parametrize(
    ("policy", "size"),
    [("rrc", 53), ("mixing", 82), ("randaug", 63), ("randaug_mixing", 102), ("cifar", 59)],
)
def test_record_sizes(policy: str, size: int) -> None:
    assert layout_of(policy).itemsize == size
    assert size <= PUBLISHED_BYTES.get(policy, size)


def test_bytes_of_a_record_are_pinned() -> None:
    layout = RecordLayout(
        [Field("crop", "<u2", (4,)), Field("flip", "<u1"), *target_fields(2, 1000)]
    )
    records = np.zeros(1, layout.dtype)
    records[0] = ((1, 2, 300, 65535), 1, (999, 7), (0.5, 0.25), 0)
    layout.seal(records, b"a/b.jpg", set_checksum("0123456789abcdef"))
    body = bytes.fromhex("01000200 2c01ffff 01 e7030700 00380034")
    crc = zlib.crc32(body, zlib.crc32(b"0123456789abcdefa/b.jpg"))
    assert records.tobytes() == body + crc.to_bytes(4, "little")


def test_id_width_follows_the_number_of_classes() -> None:
    assert target_fields(3, 65536)[0].dtype == "<u2"
    assert target_fields(3, 65537)[0].dtype == "<u4"
    assert target_fields(21841, 21841, "float32")[1] == Field("probs", "<f4", (21841,))


@pytest.mark.parametrize("topk", [0, 11])
def test_topk_must_fit_the_classes(topk: int) -> None:
    with pytest.raises(FormatError, match="1 <= k <= 10"):
        target_fields(topk, 10)


@pytest.mark.parametrize("position", range(17))
def test_any_flipped_bit_is_noticed(position: int) -> None:
    layout = RecordLayout([Field("crop", "<u2", (4,)), Field("flip", "<u1"), *target_fields(1, 9)])
    assert layout.itemsize == 17
    records = np.zeros(3, layout.dtype)
    layout.seal(records, b"key", 7)
    assert layout.damaged(records, [b"key"] * 3, 7) is None
    records.view(np.uint8).reshape(3, -1)[1, position] ^= 4
    assert layout.damaged(records, [b"key"] * 3, 7) == 1


def test_a_record_of_another_image_is_noticed() -> None:
    layout = layout_of("rrc")
    records = np.zeros(2, layout.dtype)
    layout.seal(records, b"n01/a.jpg", 7)
    assert layout.damaged(records, [b"n01/a.jpg", b"n01/b.jpg"], 7) == 1


def test_a_record_of_another_set_is_noticed() -> None:
    layout = layout_of("rrc")
    records = np.zeros(2, layout.dtype)
    layout.seal(records, b"n01/a.jpg", set_checksum("0123456789abcdef"))
    other = set_checksum("0123456789abcdee")
    assert layout.damaged(records, [b"n01/a.jpg"] * 2, other) == 0


@given(data=st.data())
def test_a_record_moves_to_another_set_by_an_exclusive_or(data: st.DataObject) -> None:
    layout = layout_of("rrc")
    body = data.draw(st.binary(min_size=layout.itemsize, max_size=layout.itemsize))
    records = np.frombuffer(body + bytes(layout.itemsize), layout.dtype).copy()
    layout.seal(records, b"n01/a.jpg", set_checksum("one"))
    moved = records.copy()
    layout.seal(moved, b"n01/a.jpg", set_checksum("another"))
    difference = records["crc32"] ^ moved["crc32"]
    assert difference[0] == difference[1], "the same number for every record of an image"


@pytest.mark.parametrize("policy", ["rrc", "mixing", "randaug", "randaug_mixing", "cifar"])
def test_layout_survives_json(policy: str) -> None:
    layout = layout_of(policy)
    described = layout.to_json()
    assert RecordLayout.from_json(described) == layout
    end = 0
    for field in described["fields"]:
        assert field["offset"] == end, "fields must leave no holes"
        end += np.dtype(field["dtype"]).itemsize * int(np.prod(field["shape"]))
    assert end == described["bytes"]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(bytes=d["bytes"] + 1),
        lambda d: d["fields"].reverse(),
        lambda d: d["fields"][0].update(offset=1),
        lambda d: d["fields"][0].update(dtype="<i9"),
        lambda d: d["fields"][0].update(dtype="|O8"),
        lambda d: d["fields"].append(d["fields"][0]),
        lambda d: d["fields"][0].pop("shape"),
        lambda d: d.pop("fields"),
        lambda d: d.update(fields=[]),
    ],
)
def test_a_malformed_table_is_refused(change: object) -> None:
    described = layout_of("randaug").to_json()
    change(described)  # type: ignore[operator]
    with pytest.raises(FormatError):
        RecordLayout.from_json(described)
