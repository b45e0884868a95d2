from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dr_plugins.mldr.decode import Decoder, check_fit
from dr_plugins.mldr.errors import AlignmentError, ArchiveError
from dr_plugins.policies.policy import Policy
from dr_plugins.records import RecordLayout, target_fields
from dr_plugins.transforms.operations import operation_names

SIZE, SAMPLES, TOPK, CLASSES, IMAGES = 40, 3, 2, 20, 9
NAMES = ("random_resized_crop", "random_horizontal_flip", "rand_augment", "random_erase")
# Level 9 of 31 at 40 pixels, as torchvision computes them.
STRENGTH = {
    **dict.fromkeys(("ShearX", "ShearY"), float(torch.linspace(0.0, 0.3, 31)[9])),
    **dict.fromkeys(
        ("TranslateX", "TranslateY"), float(torch.linspace(0.0, 150.0 / 331.0 * 40, 31)[9])
    ),
    "Rotate": float(torch.linspace(0.0, 30.0, 31)[9]),
    **dict.fromkeys(
        ("Brightness", "Color", "Contrast", "Sharpness"), float(torch.linspace(0.0, 0.9, 31)[9])
    ),
    "Posterize": 7.0,
    "Solarize": float(torch.linspace(255.0, 0.0, 31)[9]),
}


def decoder(name: str = "randaug_mixing", samples: int = SAMPLES) -> Decoder:
    policy = Policy.load(name, size=SIZE)
    layout = RecordLayout((*policy.fields, *target_fields(TOPK, CLASSES, "float32")))
    return Decoder(policy, layout, samples, TOPK, CLASSES, IMAGES)


boxes = st.tuples(
    st.integers(0, 500), st.integers(0, 500), st.integers(1, 900), st.integers(1, 900)
)


def top_of_a_softmax(seed: int) -> list[float]:
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, CLASSES)).float()
    return logits.softmax(0).topk(TOPK).values.flip(0).tolist()


OPERATIONS = operation_names()
signed = st.sampled_from(OPERATIONS[1:10])
operations = st.lists(
    st.tuples(signed, st.sampled_from([1.0, -1.0])).map(lambda p: (p[0], p[1] * STRENGTH[p[0]]))
    | st.sampled_from([(n, STRENGTH.get(n, 0.0)) for n in (OPERATIONS[0], *OPERATIONS[10:])]),
    min_size=2,
    max_size=2,
)
erasures = st.tuples(st.integers(0, 19), st.integers(0, 19), st.integers(1, 20), st.integers(1, 20))
views = st.fixed_dictionaries(
    {
        "random_resized_crop": boxes,
        "random_horizontal_flip": st.booleans(),
        "rand_augment": operations,
        "random_erase": st.none() | erasures | st.just((-1, 0, 0, 0)),
    }
)
cutmix = st.tuples(*[st.integers(0, SIZE)] * 4).map(
    lambda b: (0.5, (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])))
)
reinforcements = st.fixed_dictionaries(
    {
        "view": views,
        "partner_view": views,
        "id2": st.integers(0, IMAGES - 1),
        "mixup": st.none() | st.floats(0, 0.5),
        "cutmix": st.none() | cutmix,
        "ids": st.permutations(range(CLASSES)).map(lambda p: list(p[:TOPK])),
        "probs": st.integers(0, 1000).map(lambda seed: top_of_a_softmax(seed)),
    }
)


def dictionary(one: dict[str, Any]) -> dict[str, Any]:
    """As `compress: false` writes it."""
    pairs = {name: (one["view"][name], one["partner_view"][name]) for name in NAMES}
    free = dict.fromkeys(("uint8", "to_tensor", "normalize"), ((), ()))
    return {**free, **pairs, **{name: one[name] for name in ("mixup", "cutmix", "id2")}}


def compressed(one: dict[str, Any]) -> list[Any]:
    """As `compress: true` writes it."""

    def short(name: str, value: Any) -> Any:
        if name == "rand_augment" and value is not None:
            return [(OPERATIONS.index(operation), strength) for operation, strength in value]
        return value

    mixed = one["mixup"] is not None or one["cutmix"] is not None
    box = None if one["cutmix"] is None else [one["cutmix"][0], *one["cutmix"][1]]
    entries = [
        [short(name, one["view"][name]), short(name, one["partner_view"][name])]
        if mixed
        else short(name, one["view"][name])
        for name in NAMES
    ]
    return [one["id2"] if mixed else None, *entries, one["mixup"], box]


def content(ones: list[dict[str, Any]], write: Any, index: int = 4) -> Any:
    return index, [{"params": write(one), "prob": (one["probs"], one["ids"])} for one in ones]


def expected_view(view: dict[str, Any]) -> list[Any]:
    """What `Policy.decode` should give, written down one value at a time."""
    codes = [
        OPERATIONS.index(operation) + (128 if strength < 0 else 0)
        for operation, strength in view["rand_augment"]
    ]
    erasure = view["random_erase"]
    nothing = erasure is None or erasure[0] == -1
    return [
        list(view["random_resized_crop"]),
        int(view["random_horizontal_flip"]),
        codes,
        [0, 0, 0, 0] if nothing else list(erasure),
    ]


@pytest.mark.parametrize("write", [dictionary, compressed])
@given(ones=st.lists(reinforcements, min_size=SAMPLES, max_size=SAMPLES))
def test_every_value_arrives(write: Any, ones: list[dict[str, Any]]) -> None:
    tool = decoder()
    records = tool.decode(content(ones, write), 4)
    for one, record, params in zip(ones, records, tool.policy.decode(records), strict=True):
        assert list(params.view) == expected_view(one["view"])
        if one["mixup"] is None and one["cutmix"] is None:
            assert params.partner is None
        else:
            assert params.partner == one["id2"]
            assert list(params.partner_view) == expected_view(one["partner_view"])
            weight = 1.0 if one["mixup"] is None else one["mixup"]
            box = (0, 0, 0, 0) if one["cutmix"] is None else one["cutmix"][1]
            assert list(params.mixing) == [weight, list(box)]
        stored = dict(zip(record["ids"].tolist(), record["probs"].tolist(), strict=True))
        assert stored == dict(zip(one["ids"], one["probs"], strict=True))
        assert record["probs"].tolist() == sorted(one["probs"], reverse=True)


PLAIN: dict[str, Any] = {
    "view": {
        "random_resized_crop": (1, 2, 30, 40),
        "random_horizontal_flip": True,
        "rand_augment": [("Rotate", 9.0), ("Posterize", 7.0)],
        "random_erase": (5, 6, 7, 8),
    },
    "id2": 3,
    "mixup": 0.25,
    "cutmix": (0.5, (1, 2, 3, 4)),
    "ids": [3, 7],
    "probs": [0.25, 0.5],
}
PLAIN["partner_view"] = PLAIN["view"]


def changed(**values: Any) -> dict[str, Any]:
    view = {**PLAIN["view"], **{k: v for k, v in values.items() if k in NAMES}}
    return {**PLAIN, **{k: v for k, v in values.items() if k not in NAMES}, "view": view}


@pytest.mark.parametrize("write", [dictionary, compressed])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"random_resized_crop": (1, 2, 30)}, "random_resized_crop"),
        ({"random_resized_crop": (1, 2, 30, 40.5)}, "random_resized_crop"),
        ({"random_resized_crop": (1, 2, 30, 0)}, "empty"),
        ({"random_resized_crop": (-1, 2, 30, 3)}, "outside 0 to 65535"),
        ({"random_resized_crop": (1, 2, 30, 65536)}, "outside 0 to 65535"),
        ({"random_resized_crop": (1, 2, 30, 2**70)}, "random_resized_crop"),
        ({"random_resized_crop": None}, "random_resized_crop"),
        ({"random_horizontal_flip": 2}, "not True, False or None"),
        ({"random_horizontal_flip": (1, 2)}, "not True, False or None"),
        ({"rand_augment": [("Rotate", 9.0)]}, "rand_augment"),
        ({"rand_augment": [("Rotate", 9.0)] * 3}, "rand_augment"),
        ({"rand_augment": [("Rotate", 9.000001), ("Rotate", 9.0)]}, "level 9 at 40x40"),
        ({"rand_augment": [("Rotate", 9.0), ("Solarize", 179.2)]}, "level 9"),
        ({"rand_augment": [("Rotate", 9.0), ("Solarize", -178.5)]}, "level 9"),
        ({"random_erase": (0, 0, -3, 4)}, "random_erase"),
        ({"random_erase": (0, 0, "3", 4)}, "random_erase"),
        ({"mixup": 1.5}, "weight of mixup"),
        ({"mixup": float("nan")}, "weight of mixup"),
        ({"mixup": "a"}, "weights of mixup"),
        ({"cutmix": (0.5, (1, 2, 3, 41))}, "cutmix"),
        ({"cutmix": (0.5, (1, 2, 3))}, "cutmix"),
        ({"id2": 9}, "partner"),
        ({"id2": -1}, "partner"),
        ({"ids": [3, 3]}, "twice"),
        ({"ids": [3, 20]}, "--num-classes"),
        ({"ids": [3, -1]}, "--num-classes"),
        ({"ids": [3]}, "classes"),
        ({"probs": [0.5, float("nan")]}, "not between 0 and 1"),
        ({"probs": [0.5, -0.5]}, "not between 0 and 1"),
        ({"probs": [0.5, "1"]}, "probabilities"),
        ({"probs": [0.5, "x" * 5000]}, "probabilities"),
        ({"probs": [0.9, 0.9]}, r"sum to 1\.8"),
        ({"probs": [0.0, 0.0]}, "sum to 0"),
        ({"probs": [0.5, 0.01]}, r"sum to 0\.51"),
        ({"cutmix": (0.5, (3, 2, 1, 4))}, "cutmix"),
        ({"rand_augment": None}, "skipped"),
        ({"probs": [0.5, [[]]]}, "probabilities"),
    ],
)
def test_malformed_values_are_refused(values: Any, message: str, write: Any) -> None:
    with pytest.raises(ArchiveError, match=message):
        decoder().decode(content([PLAIN, changed(**values), PLAIN], write), 4)


@pytest.mark.parametrize("policy", ["rrc", "randaug", "mixing"])
@pytest.mark.parametrize("write", [dictionary, compressed])
def test_members_of_another_policy_are_refused(policy: str, write: Any) -> None:
    """In both directions, whichever of the two has more transforms."""
    more, fewer = decoder(), decoder(policy)
    own = {t.name for t in (*fewer.policy.transforms, *fewer.policy.mixings)}
    entry = write(PLAIN)
    if write is dictionary:
        free = ("uint8", "to_tensor", "normalize", "id2")
        reduced: Any = {name: v for name, v in entry.items() if name in own or name in free}
    else:
        mixes = bool(fewer.policy.mixings)
        kept = [name in own for name in (*NAMES, "mixup", "cutmix")]
        values = [v for v, keep in zip(entry[1:], kept, strict=True) if keep]
        reduced = [entry[0], *values] if mixes else [v[0] for v in values]

    def member(params: Any) -> Any:
        return 4, [{"params": params, "prob": (PLAIN["probs"], PLAIN["ids"])}] * SAMPLES

    fewer.decode(member(reduced), 4)
    for tool, params in [(fewer, entry), (more, reduced)]:
        with pytest.raises(ArchiveError, match="configuration"):
            tool.decode(member(params), 4)


def test_a_transform_that_was_never_skipped_by_its_configuration() -> None:
    with_erasing = Policy.from_config(
        {**Policy.load("randaug", size=SIZE).to_config(), "random_erase": {"p": 1.0}}
    )
    layout = RecordLayout((*with_erasing.fields, *target_fields(TOPK, CLASSES)))
    tool = Decoder(with_erasing, layout, 1, TOPK, CLASSES, IMAGES)
    one = {k: v for k, v in dictionary(PLAIN).items() if k not in ("mixup", "cutmix", "id2")}
    tool.decode((4, [{"params": one, "prob": ([0.5, 0.25], [1, 2])}]), 4)
    one["random_erase"] = (None, None)
    with pytest.raises(ArchiveError, match="random_erase"):
        tool.decode((4, [{"params": one, "prob": ([0.5, 0.25], [1, 2])}]), 4)


def test_unknown_operations_are_refused() -> None:
    for name in ("Invert", 14, -1):
        one = compressed(PLAIN)
        one[3][0] = [(name, 0.0), (0, 0.0)]
        with pytest.raises(ArchiveError, match="rand_augment"):
            decoder(samples=1).decode((4, [{"params": one, "prob": ([0.5, 0.2], [1, 2])}]), 4)


@pytest.mark.parametrize(
    ("content_", "message"),
    [
        (None, "does not hold"),
        ((4, {}), "does not hold"),
        ([4, []], "does not hold"),
        ((5, []), "image 5"),
        ((4, []), "0 reinforcements, expected 3"),
        ((4, [1, 2, 3]), "no `prob`"),
        ((4, [{"params": []}] * 3), "no `prob`"),
        ((4, [{"params": [], "prob": 0.5}] * 3), "`prob`"),
        ((4, [{"params": [], "prob": ([0.5, 0.2], [1, 2])}] * 3), "have 7"),
        ((4, [{"params": 1, "prob": ([0.5, 0.2], [1, 2])}] * 3), "neither lists nor"),
        ((4, [{"params": {"mixup": 0.5}, "prob": ([0.5, 0.2], [1, 2])}] * 3), "are those of mixup"),
        (
            (4, [{"params": [None] * 5 + [0.5, None], "prob": ([0.5, 0.2], [1, 2])}] * 3),
            "no partner",
        ),
        ((4, [{"params": [3, 1, 2, 3, 4, 0.5, None], "prob": ([0.5, 0.2], [1, 2])}] * 3), "pair"),
    ],
)
def test_malformed_members_are_refused(content_: Any, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        decoder().decode(content_, 4)


def test_skipped_and_oversized_erasures() -> None:
    # (0, 0, 40, 40) is what torchvision returns when no box fits; ml-dr blackens the whole view.
    for stored, kept in [
        ((0, 0, 40, 40), [0, 0, 40, 40]),
        ((30, 30, 20, 5), [30, 30, 10, 5]),
        ((40, 0, 3, 3), [0, 0, 0, 0]),
        ((3, 3, 0, 5), [0, 0, 0, 0]),
        ((-1, -1, 9, 9), [0, 0, 0, 0]),
    ]:
        records = decoder().decode(content([changed(random_erase=stored)] * 3, dictionary), 4)
        assert records["erase"][0].tolist() == kept


@pytest.mark.parametrize("stored", [40, (40,), (40, 40), [40, 40]])
def test_the_stored_size_of_resize_may_have_any_form(stored: Any) -> None:
    policy = Policy.from_config({"resize": {"size": 40}, "random_crop": {"size": 40}})
    layout = RecordLayout((*policy.fields, *target_fields(2, CLASSES)))
    tool = Decoder(policy, layout, 1, 2, CLASSES, IMAGES)
    member = (0, [{"params": [stored, (3, 1)], "prob": ([0.5, 0.2], [1, 2])}])
    assert tool.decode(member, 0)["offset"].tolist() == [[3, 1]]
    member[1][0]["params"][0] = (40, 41)
    with pytest.raises(ArchiveError, match="resized to"):
        tool.decode(member, 0)


def sizes(height: int, width: int, count: int = SAMPLES) -> np.ndarray:
    return np.tile((height, width), (count, 1))


def test_partners_crops_must_lie_within_their_images() -> None:
    tool = decoder()
    records = tool.decode(content([PLAIN] * 3, dictionary), 4)
    records["partner_crop"][1] = (1, 2, 31, 40)
    check_fit(tool.policy, records, sizes(31, 42))
    of_partners = np.array([(31, 42), (32, 42), (0, 0)])  # the last one is not known
    check_fit(tool.policy, records, of_partners, "partner_")
    of_partners[1] = (31, 42)
    with pytest.raises(AlignmentError, match=r"31x42.*reaches to \[32, 42\]"):
        check_fit(tool.policy, records, of_partners, "partner_")


def test_crops_must_lie_within_the_image() -> None:
    tool = decoder()
    records = tool.decode(content([PLAIN] * 3, dictionary), 4)
    check_fit(tool.policy, records, sizes(31, 42))
    for size in [(30, 42), (31, 41)]:
        with pytest.raises(AlignmentError, match=r"reaches to \[31, 42\]"):
            check_fit(tool.policy, records, sizes(*size))


def test_offsets_must_lie_within_the_padded_image() -> None:
    policy = Policy.from_config({"resize": {"size": 20}, "random_crop": {"size": 20, "padding": 2}})
    layout = RecordLayout((*policy.fields, *target_fields(2, CLASSES)))
    records = np.zeros(1, layout.dtype)
    records["offset"] = (4, 14)  # a 100x150 image becomes 20x30
    check_fit(policy, records, sizes(100, 150, 1))
    records["offset"] = (5, 14)
    with pytest.raises(AlignmentError, match="random_crop"):
        check_fit(policy, records, sizes(100, 150, 1))
