from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from dr_plugins import ViewGeometry
from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.transforms.operations import OPERATIONS, operation_names
from tests.tiny import policy as small

PRESETS = ("cifar", "mixing", "randaug", "randaug_mixing", "rrc")
BACKENDS = ("pil", "tensor")
GEOMETRIC = [op.name for op in OPERATIONS if op.matrix is not None]
HEIGHT, WIDTH, SIDE = 200, 240, 48
CENTRES = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1) + 0.5


def chart(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Pixels that say where they are: column, row, and 255 for not black."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.full_like(rows, 255)], -1).astype(np.uint8)


def replay(policy: Policy, image: np.ndarray, params: AugmentParams) -> np.ndarray:
    picture = Image.fromarray(image) if policy.backend == "pil" else image
    return policy.apply(picture, AugmentParams(params.view)).permute(1, 2, 0).numpy()


def movable(name: str, backend: str = "pil", operations: list[str] = GEOMETRIC) -> Policy:
    """A preset without operations that change colours, which would hide where a pixel is from."""
    policy = Policy.load(name, size=SIDE, backend=backend)
    config = policy.to_config()
    if "rand_augment" in config:
        config["rand_augment"]["operations"] = operations
    return Policy.from_config(config)


def errors(policy: Policy, params: AugmentParams) -> tuple[np.ndarray, float]:
    """Distances (x, y) of shown from stated positions, ``[n, 2]``; image pixels per view pixel."""
    geometry = policy.geometry(params.view, (HEIGHT, WIDTH))
    view = replay(policy, chart(), params)
    shown = view[..., 2] == 255
    # Antialiasing blends the pixels at the crop's border with fewer neighbours.
    shown &= ((CENTRES > 3) & (CENTRES < SIDE - 3)).all(-1)
    stated = geometry.to_image(CENTRES[shown])
    return view[shown][:, :2] + 0.5 - stated, float(np.abs(np.linalg.inv(geometry.matrix)).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PRESETS)
def test_replayed_pixels_are_where_the_geometry_says(name: str, backend: str) -> None:
    policy, rng = movable(name, backend), np.random.default_rng(0)
    biases, seen = [], 0
    for _ in range(40):
        params = policy.sample(rng, (HEIGHT, WIDTH))
        error, scale = errors(policy, params)
        if len(error) < 100:  # almost all is outside of the image
            continue
        seen += 1
        moves = len(policy.geometry(params.view, (HEIGHT, WIDTH)).steps) - 1
        # Rounding of the values, and half a pixel of the view for each nearest neighbour.
        worst = 0.51 + 0.71 * max(moves, 0) * max(1.0, scale / 100)
        if "rand_augment" in policy.to_config():
            worst *= max(1.0, HEIGHT / SIDE)
        assert np.abs(error).max() < worst
        biases.append(error.mean(0))
    assert seen > 20
    # Half a pixel, by a convention that is not Pillow's, would show.
    assert np.abs(np.mean(biases, 0)).max() < 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_black_is_what_is_not_visible(name: str) -> None:
    policy, rng = movable(name), np.random.default_rng(1)
    if name == "cifar":  # so that something is out of the frame
        policy = small(name, SIDE, random_crop={"size": SIDE, "padding": 12}, random_erase=None)
    config = {**policy.to_config(), "random_erase": {"p": 0.0}}
    if "rand_augment" in config:
        config["rand_augment"]["operations"] = GEOMETRIC
    policy = Policy.from_config(config)
    for _ in range(40):
        params = policy.sample(rng, (HEIGHT, WIDTH))
        black = replay(policy, chart(), params)[..., 2] == 0
        visible = policy.geometry(params.view, (HEIGHT, WIDTH)).visible()
        # Two resamplings round twice to the nearest pixel, the map once.
        assert (visible == black).mean() < 0.02


@pytest.mark.parametrize("sign", [0, 128])
@pytest.mark.parametrize("name", operation_names())
def test_masks_are_replayed_exactly(name: str, sign: int) -> None:
    number = operation_names().index(name)
    policy = small("cifar", SIDE, random_crop=None, resize=None, center_crop={"size": SIDE})
    config = policy.to_config()
    config["rand_augment"] = {"num_ops": 1, "magnitude": 13, "operations": [name]}
    policy = Policy.from_config({**config, "random_erase": None})
    params = AugmentParams([1, (number | (sign if OPERATIONS[number].signed else 0),)])
    geometry = policy.geometry(params.view, (57, 64))
    mask = np.arange(57 * 64, dtype=np.int32).reshape(57, 64) + 1
    moved = geometry.mask(mask)

    if name in GEOMETRIC:
        image = np.stack([mask & 255, mask >> 8, np.full_like(mask, 255)], -1).astype(np.uint8)
        view = replay(policy, image, params).astype(int)
        # Pillow resamples with 16 bits after the point; which pixel is nearest may be open.
        sources = geometry.to_image(CENTRES)
        clear = (np.abs(sources - sources.round()) > 0.01).all(-1)
        assert clear.mean() > 0.85
        shown = view[..., 0] + 256 * view[..., 1]
        np.testing.assert_array_equal(moved[clear], shown[clear])
        np.testing.assert_array_equal(geometry.visible()[clear], view[clear][:, 2] == 255)
    else:
        np.testing.assert_array_equal(moved, mask[4:52, 8:56][:, ::-1])


@settings(max_examples=60)
@given(
    backend=st.sampled_from(BACKENDS),
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    seed=st.integers(0, 2**32),
)
def test_masks_of_random_crops(backend: str, size: tuple[int, int], seed: int) -> None:
    crop = {"size": 32, "interpolation": "nearest"}
    policy = small("rrc", 32, backend=backend, random_resized_crop=crop)
    params = policy.sample(np.random.default_rng(seed), size)
    view = replay(policy, chart(*size), params)
    geometry = policy.geometry(params.view, size)

    assert geometry.visible().all()
    np.testing.assert_array_equal(geometry.mask(chart(*size)[..., 0]), view[..., 0])
    np.testing.assert_array_equal(geometry.mask(chart(*size)[..., 1]), view[..., 1])


def test_a_mask_of_another_size_is_refused() -> None:
    geometry = Policy.load("rrc").geometry([(0, 0, 20, 20), 0], (40, 50))
    with pytest.raises(ValueError, match=r"\(50, 40\).*\(40, 50\)"):
        geometry.mask(np.zeros((50, 40)))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_boxes_are_those_of_torchvision(seed: int) -> None:
    rng, policy = np.random.default_rng(seed), small("rrc", SIDE)
    params = policy.sample(rng, (HEIGHT, WIDTH))
    (top, left, height, width), flip = params.view
    corners = rng.uniform(0, (WIDTH, HEIGHT), (5, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    oracle = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(HEIGHT, WIDTH))
    oracle = tv.resized_crop(oracle, top, left, height, width, [SIDE, SIDE])
    oracle = tv.horizontal_flip(oracle) if flip else oracle

    theirs = tv.clamp_bounding_boxes(oracle).numpy()
    ours = policy.geometry(params.view, (HEIGHT, WIDTH)).boxes(boxes)
    is_there = (theirs[:, 2:] - theirs[:, :2] > 1e-3).all(1)
    np.testing.assert_allclose(ours[is_there], theirs[is_there], atol=1e-3)
    assert (ours[~is_there, 2:] - ours[~is_there, :2]).min(1, initial=0).max(initial=0) < 2e-3


@pytest.mark.parametrize("name", GEOMETRIC)
def test_boxes_surround_what_they_surrounded(name: str) -> None:
    policy, rng = movable("randaug", operations=[name, "TranslateX"]), np.random.default_rng(2)
    policy = Policy.from_config({**policy.to_config(), "random_erase": None})
    box = np.array([90, 70, 150, 120])
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    compared = 0
    for _ in range(60):
        params = policy.sample(rng, (HEIGHT, WIDTH))
        stated = policy.geometry(params.view, (HEIGHT, WIDTH)).boxes(box)
        rows, columns = np.nonzero(replay(policy, image, params)[..., 0] > 127)
        if (stated[2:] - stated[:2]).min() < 2 or not len(rows):
            continue
        compared += 1
        found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose(found, stated, atol=2.5)
    assert compared > 20


def test_a_partner_has_a_geometry_of_its_own() -> None:
    policy = small("mixing", SIDE, mixup={"p": 0.0}, cutmix={"p": 1.0})
    rng = np.random.default_rng(3)
    params = policy.sample(rng, (HEIGHT, WIDTH), [(7, (120, 150))])
    partner = Image.fromarray(chart(120, 150))
    view = policy.apply(Image.new("RGB", (WIDTH, HEIGHT)), params, partner)
    top, left, bottom, right = params.mixing[1]
    inside = np.array([(left + right) // 2, (top + bottom) // 2])
    stated = policy.geometry(params.partner_view, (120, 150)).to_image(inside + 0.5)

    shown = view[:, inside[1], inside[0]].numpy()
    assert shown[2] == 255
    np.testing.assert_allclose(shown[:2] + 0.5, stated, atol=1)


def test_by_hand() -> None:
    policy = Policy.from_config(
        {"resize": {"size": 20}, "center_crop": {"size": 16}, "random_horizontal_flip": {"p": 0.5}}
    )
    geometry = policy.geometry([1], (40, 60))  # halved to 20 x 30, cut at (2, 7), mirrored
    assert isinstance(geometry, ViewGeometry)
    assert geometry.view_size == (16, 16)
    assert geometry.image_size == (40, 60)
    np.testing.assert_allclose(geometry.matrix, [[-0.5, 0, 23], [0, 0.5, -2], [0, 0, 1]])
    np.testing.assert_allclose(geometry.outline(), [[46, 4], [14, 4], [14, 36], [46, 36]])
    np.testing.assert_allclose(geometry.to_view(np.array([46, 4])), [0, 0])
    np.testing.assert_allclose(geometry.to_image(geometry.to_view(np.eye(2))), np.eye(2))
