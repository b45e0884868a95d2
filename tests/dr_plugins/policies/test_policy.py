from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dr_plugins.errors import PolicyError
from dr_plugins.policies.config import preset_names, read_policy
from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.records import RecordLayout, target_fields
from dr_plugins.shards.manifest import settings_digest
from dr_plugins.transforms import RandAugment, RandomHorizontalFlip, RandomResizedCrop, Resize
from tests.tiny import photograph
from tests.tiny import policy as small

PRESETS = ("cifar", "mixing", "randaug", "randaug_mixing", "rrc")
BACKENDS = ("pil", "tensor")


def plain(params: AugmentParams) -> tuple[Any, ...]:
    """Parameters with tuples throughout, for comparison."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value

    return tuples(tuple(params))


def blank_records(policy: Policy, count: int = 1) -> np.ndarray:
    return np.zeros(count, RecordLayout((*policy.fields, *target_fields(1, 10))).dtype)


# --- presets --------------------------------------------------------------------------------------


def test_presets_are_those_of_the_paper() -> None:
    assert preset_names() == list(PRESETS)
    crop = {
        "size": 224,
        "scale": [0.08, 1.0],
        "ratio": [3 / 4, 4 / 3],
        "interpolation": "bilinear",
    }
    augment = {
        "num_ops": 2,
        "magnitude": 9,
        "num_magnitude_bins": 31,
        "p": 1.0,
        "operations": list(torchvision.transforms.RandAugment()._augmentation_space(31, (9, 9))),
    }
    erase = {"p": 0.25, "scale": [0.02, 0.33], "ratio": [0.3, 3.3]}
    rrc = {"backend": "pil", "random_resized_crop": crop, "random_horizontal_flip": {"p": 0.5}}
    mixing = {
        "mixup": {"alpha": 1.0, "div_by": 2.0, "p": 0.5},
        "cutmix": {"alpha": 1.0, "p": 0.5},
    }
    randaug = {"rand_augment": augment, "random_erase": erase}
    assert Policy.load("rrc").to_config() == rrc
    assert Policy.load("mixing").to_config() == {**rrc, **mixing}
    assert Policy.load("randaug").to_config() == {**rrc, **randaug}
    assert Policy.load("randaug_mixing").to_config() == {**rrc, **randaug, **mixing}
    assert Policy.load("cifar").to_config() == {
        "backend": "pil",
        "resize": {"size": 224, "interpolation": "bilinear"},
        "random_crop": {"size": 224, "padding": 16},
        "random_horizontal_flip": {"p": 0.5},
        **randaug,
    }


@pytest.mark.parametrize(
    ("name", "identity", "drawn"),
    [
        ("cifar", "5dcf3429c424b04f", "09bfca0c8a9fdd0f"),
        ("mixing", "53789b9911f592c2", "442b74c329ccc2a3"),
        ("randaug", "1d393eef0f95b89c", "588ba5f9fb2c0f73"),
        ("randaug_mixing", "6f3dd54f4ca44307", "b8f72ea2fe3bcdcc"),
        ("rrc", "dbfc2817885dbe12", "254917fef5193977"),
    ],
)
def test_presets_keep_their_identity_and_their_draws(name: str, identity: str, drawn: str) -> None:
    # Sets that exist would otherwise get other records under the same id, or could not be resumed.
    policy, rng = Policy.load(name), np.random.default_rng(0)
    records = blank_records(policy, 100)
    for record in records:
        policy.encode(policy.sample(rng, (300, 400), [(7, (200, 100))]), record)
    assert settings_digest(policy.to_config()) == identity
    assert hashlib.sha256(records.tobytes()).hexdigest()[:16] == drawn


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_spells_everything_out(name: str) -> None:
    assert {"backend": "pil", **read_policy(name)} == Policy.load(name).to_config()


@pytest.mark.parametrize("name", PRESETS)
def test_size_and_backend_are_replaced(name: str) -> None:
    policy = Policy.load(name, size=40, backend="tensor")
    assert policy.view_size == (40, 40)
    assert policy.backend == "tensor"
    assert Policy.load(name).view_size == (224, 224)
    assert Policy.load(name).backend == "pil"


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_configs_survive_json(name: str, backend: str) -> None:
    policy = Policy.load(name, size=48, backend=backend)
    assert Policy.from_config(json.loads(json.dumps(policy.to_config()))) == policy
    assert Policy.from_config(yaml.safe_load(yaml.safe_dump(policy.to_config()))) == policy


def test_order_does_not_depend_on_the_config() -> None:
    config = Policy.load("randaug_mixing").to_config()
    assert Policy.from_config(dict(reversed(config.items()))) == Policy.from_config(config)


def test_view_size_follows_the_transforms() -> None:
    assert Policy.from_config({"resize": {"size": 64}, "center_crop": {"size": 48}}).view_size == (
        48,
        48,
    )
    assert Policy((Resize(9), RandomResizedCrop(7))).view_size == (7, 7)


# --- files ----------------------------------------------------------------------------------------


def test_a_file_changes_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "preset: randaug\n"
        "backend: tensor\n"
        "random_resized_crop: {scale: [0.2, 1.0]}\n"
        "rand_augment: {magnitude: 5}\n"
        "random_erase: null\n"
        "cutmix: {p: 0.1}\n"
    )
    expected = Policy.load("randaug", size=32, backend="tensor").to_config()
    del expected["random_erase"]
    expected["random_resized_crop"]["scale"] = [0.2, 1.0]
    expected["rand_augment"]["magnitude"] = 5
    expected["cutmix"] = {"alpha": 1.0, "p": 0.1}
    assert Policy.load(path, size=32).to_config() == expected
    assert Policy.load(str(path)).view_size == (224, 224)


def test_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("random_resized_crop: {size: 20, interpolation: bicubic}\n")
    assert Policy.load(path) == Policy((RandomResizedCrop(20, interpolation="bicubic"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"preset: nothing\n", "unknown preset 'nothing'; expected one of cifar, mixing"),
        (b"preset: [rrc]\n", "unknown preset"),
        (b"preset: mine.yaml\n", r"unknown preset 'mine\.yaml'"),
        (b"- a\n- b\n", "does not hold a mapping"),
        (b"", "does not hold a mapping"),
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe\x00", "nor a readable YAML file"),
        (b"!!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"preset: rrc\nsharpen: {}\n", r"unknown transforms in the policy: \['sharpen'\]"),
        (b"preset: rrc\n3: {}\nx: {}\n", r"unknown transforms in the policy: \['3', 'x'\]"),
        (b"preset: rrc\nrandom_erase: {q: 1}\n", "random_erase.*'q'.*p, scale, ratio"),
        (b"preset: rrc\nrandom_erase: {p: high}\n", "policy entry random_erase"),
        (b"preset: rrc\nrandom_erase: 0.25\n", "policy entry random_erase"),
        (b"preset: rrc\nrandom_erase: {p: 1.5}\n", r"random_erase: p is 1\.5"),
        (b"preset: rrc\nrand_augment: {magnitude: 31}\n", "magnitude is 31"),
        (b"random_resized_crop: {}\n", "random_resized_crop.*'size'"),
        (b"random_resized_crop: {size: 65536}\n", "size is 65536, expected at most 65535"),
        (b"random_crop: {size: 9, padding: 70000}\n", "padding is 70000, expected at most 65535"),
        (b"preset: rrc\nbackend: gpu\n", "backend is 'gpu'; expected one of"),
        (b"preset: rrc\nbackend: [pil]\n", "backend is"),
        (b"preset: rrc\nrandom_resized_crop: null\n", "the size.*add one of"),
        (b"resize: {size: 32}\n", "the size"),
        (b"{}", "empty.*the size"),
    ],
)
def test_malformed_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=message):
        Policy.load(path)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"'nowhere' is neither a preset .*randaug_mixing"):
        Policy.load("nowhere")
    with pytest.raises(PolicyError, match="nor a readable YAML file"):
        Policy.load(tmp_path)


# --- parameters -----------------------------------------------------------------------------------

SIDES = st.one_of(st.integers(1, 40), st.integers(1, 65_535))


@settings(max_examples=150)
@given(
    name=st.sampled_from([p for p in PRESETS if p != "cifar"]),
    size=st.tuples(SIDES, SIDES),
    partner=st.tuples(SIDES, SIDES),
    row=st.integers(0, 2**32 - 2),
    seed=st.integers(0, 2**32),
)
def test_encode_and_decode_are_inverse(
    name: str, size: tuple[int, int], partner: tuple[int, int], row: int, seed: int
) -> None:
    policy = Policy.load(name)
    rng = np.random.default_rng(seed)
    records = blank_records(policy, 5)
    drawn = []
    for record in records:
        drawn.append(policy.sample(rng, size, [(row, partner)]))
        policy.encode(drawn[-1], record)
    assert [plain(p) for p in policy.decode(records)] == [plain(p) for p in drawn]
    again = blank_records(policy, 5)
    for params, record in zip(policy.decode(records), again, strict=True):
        policy.encode(params, record)
    assert again.tobytes() == records.tobytes()


@settings(max_examples=60)
@given(side=st.integers(1, 300), other=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_parameters_of_a_padded_crop_survive(side: int, other: int, seed: int) -> None:
    policy = small("cifar")
    records = blank_records(policy)
    params = policy.sample(np.random.default_rng(seed), (side, other))
    policy.encode(params, records[0])
    assert plain(policy.decode(records)[0]) == plain(params)


@given(data=st.data())
def test_any_values_of_the_fields_survive(data: st.DataObject) -> None:
    policy = Policy.load("randaug_mixing")
    u16 = st.integers(0, 65_535)
    box = st.tuples(u16, u16, u16, u16)
    byte = st.integers(0, 255)
    view = st.tuples(box, byte, st.tuples(byte, byte), box)
    mixing = st.tuples(st.floats(allow_nan=False), box)
    params = data.draw(
        st.one_of(
            st.tuples(view),
            st.tuples(view, st.integers(0, 2**32 - 2), view, mixing),
        ).map(lambda fields: AugmentParams(*fields))
    )
    records = blank_records(policy)
    policy.encode(params, records[0])
    assert plain(policy.decode(records)[0]) == plain(params)


def test_a_record_is_wiped_of_an_earlier_partner() -> None:
    policy = Policy.load("mixing")
    records = blank_records(policy, 2)
    view = [(1, 2, 3, 4), 1]
    policy.encode(AugmentParams(view, 7, view, [0.25, (1, 2, 3, 4)]), records[0])
    policy.encode(AugmentParams(view), records[0])
    policy.encode(AugmentParams(view), records[1])
    assert records[0].tobytes() == records[1].tobytes()


@pytest.mark.parametrize(
    "view",
    [
        [(0, 0, 70_000, 5), 0],
        [(0, 0, 65_536, 5), 0],
        [(-1, 0, 5, 5), 0],
        [(0, 0, 5, 5), 256],
        [(0, 0, 5, 5.5), 0],
        [(0, 0, 5, 5)],
        [(0, 0, 5), 0],
    ],
)
def test_what_does_not_fit_a_record_is_refused(view: list[Any]) -> None:
    policy = Policy.load("rrc")
    with pytest.raises(PolicyError, match="do not fit a record"):
        policy.encode(AugmentParams(view), blank_records(policy)[0])


def test_images_of_more_than_65535_pixels_a_side_are_refused() -> None:
    policy = Policy.from_config({"random_resized_crop": {"size": 8, "scale": [1.0, 1.0]}})
    record = blank_records(policy)[0]
    fits = AugmentParams([(0, 0, 65_535, 1)])
    policy.encode(fits, record)
    assert record["crop"].tolist() == [0, 0, 65_535, 1]
    params = policy.sample(np.random.default_rng(0), (60_000, 80_000))
    with pytest.raises(PolicyError, match="65,535 pixels a side"):
        policy.encode(params, record)


def test_mixing_needs_partners() -> None:
    policy = small("randaug_mixing", mixup={"p": 1.0})
    assert policy.sample(np.random.default_rng(0), (30, 40)).partner is None
    params = policy.sample(np.random.default_rng(0), (30, 40), [(9, (50, 60))])
    assert params.partner == 9
    unmixed = small("randaug").sample(np.random.default_rng(0), (30, 40), [(9, (50, 60))])
    assert unmixed.partner is None


def test_partners_and_mixings_are_drawn_as_stated() -> None:
    policy = small("mixing")  # mixup and CutMix independently, each with p = 0.5
    rng = np.random.default_rng(1)
    partners = [(row, (40, 40)) for row in range(4)]
    drawn = [policy.sample(rng, (40, 40), partners) for _ in range(4000)]
    rows = [p.partner for p in drawn if p.partner is not None]
    assert len(rows) / 4000 == pytest.approx(0.75, abs=0.03)  # a little less: empty CutMix boxes
    assert np.bincount(rows) == pytest.approx([len(rows) / 4] * 4, rel=0.1)
    blended = [p for p in drawn if p.partner is not None and p.mixing[0] != 1.0]
    assert len(blended) / 4000 == pytest.approx(0.5, abs=0.03)


def test_the_crop_of_the_partner_fits_the_partner() -> None:
    policy = small("randaug_mixing", mixup={"p": 1.0})
    rng = np.random.default_rng(2)
    for _ in range(200):
        params = policy.sample(rng, (500, 400), [(0, (7, 9))])
        top, left, height, width = params.partner_view[0]
        assert 0 <= top < top + height <= 7
        assert 0 <= left < left + width <= 9


# --- views ----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    name=st.sampled_from(PRESETS),
    backend=st.sampled_from(BACKENDS),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 2**32),
)
def test_apply_is_pure(name: str, backend: str, size: tuple[int, int], seed: int) -> None:
    policy = small(name, size=16, backend=backend)
    image, partner = photograph(seed % 50, *size), photograph(seed % 50 + 1, *size[::-1])
    before = image.tobytes(), partner.tobytes()
    params = policy.sample(np.random.default_rng(seed), size, [(1, size[::-1])])
    torch.manual_seed(seed)
    state = torch.get_rng_state()
    first = policy.apply(image, params, partner)
    second = policy.apply(image, params, partner)
    assert (first.dtype, tuple(first.shape)) == (torch.uint8, (3, 16, 16))
    assert torch.equal(first, second)
    assert before == (image.tobytes(), partner.tobytes())
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=40)
@given(
    name=st.sampled_from(["rrc", "cifar"]),
    size=st.tuples(st.integers(8, 80), st.integers(8, 80)),
    seed=st.integers(0, 2**32),
)
def test_backends_differ_by_rounding_only(name: str, size: tuple[int, int], seed: int) -> None:
    config = {"random_erase": {"p": 1.0}, "rand_augment": None}
    a, b = (small(name, size=16, backend=backend, **config) for backend in BACKENDS)
    image = photograph(seed % 50, *size)
    params = a.sample(np.random.default_rng(seed), size)
    one, two = a.apply(image, params).int(), b.apply(image, params).int()
    assert (one - two).abs().max() <= 1


def test_an_image_of_another_mode_is_refused() -> None:
    for backend in BACKENDS:
        policy = small("rrc", backend=backend)
        params = policy.sample(np.random.default_rng(0), (9, 9))
        with pytest.raises((TypeError, ValueError), match="'L'"):
            policy.apply(Image.new("L", (9, 9)), params)


def test_equality_and_hash() -> None:
    assert Policy.load("randaug") == Policy.load("randaug")
    assert Policy.load("randaug") != Policy.load("randaug", size=32)
    assert len({Policy.load("rrc"), Policy.load("rrc"), Policy.load("mixing")}) == 2
    built = Policy((RandomResizedCrop(224), RandomHorizontalFlip(), RandAugment()))
    assert [f.name for f in built.fields] == ["crop", "flip", "ops"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PRESETS)
def test_a_batch_in_three_steps_gives_the_pixels_of_apply(name: str, backend: str) -> None:
    policy, rng = small(name, 32, backend=backend), np.random.default_rng(1)
    images = [photograph(i, 50 + i, 60) for i in range(8)]
    sizes = [(i, (image.height, image.width)) for i, image in enumerate(images)]
    drawn = [policy.sample(rng, sizes[i % 8][1], sizes) for i in range(200)]
    # In channels-last memory, as a loader stacks them.
    stack = partial(torch.stack, dim=0)
    views = stack([policy.crop(images[i % 8], p.view) for i, p in enumerate(drawn)])
    before = views.clone()
    finished = policy.augment(views.contiguous(memory_format=torch.channels_last), view_of(drawn))
    mixed = [i for i, p in enumerate(drawn) if p.partner is not None]
    assert bool(mixed) == ("mixing" in name)
    if mixed:
        chosen = [drawn[i] for i in mixed]
        partners = stack([policy.crop(images[p.partner or 0], p.partner_view) for p in chosen])
        partners = policy.augment(partners, [p.partner_view for p in chosen])
        finished[mixed] = policy.mix(finished[mixed], partners, [p.mixing for p in chosen])
    for i, (view, params) in enumerate(zip(finished, drawn, strict=True)):
        partner = None if params.partner is None else images[params.partner]
        assert torch.equal(view, policy.apply(images[i % 8], params, partner))
    assert torch.equal(views, before)


def view_of(drawn: list[AugmentParams]) -> list[Any]:
    return [params.view for params in drawn]
