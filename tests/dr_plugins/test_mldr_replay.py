"""The `pil` backend against apple/ml-dr: stored parameters, replayed, give the same bits.

The archives and arrays were made by the reference implementation; see their README.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import pytest
import torch

from dr_plugins.images.decoding import open_image
from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.transforms import normalize
from dr_plugins.transforms.operations import OPERATIONS, operation_names

GOLDEN = Path(__file__).parents[2].parent / "shared" / "mldr_golden"
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"the reference archives are not there ({GOLDEN})"
)
# The references were replayed with Pillow 13, whose resizing rounds differently in some sizes.
needs_pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13, reason="the references are Pillow 13's pixels"
)
UNMIXED, MIXED = ("cropflip", "randaug", "cifar"), ("mixing", "randaug_mixing")
LAYOUTS = ("compressed", "uncompressed")
WITHOUT_PARAMETERS = ("uint8", "center_crop", "to_tensor", "normalize")
# ml-dr's fixed order, whatever the order in the configuration.
ORDER = (
    "resize",
    "random_crop",
    "random_resized_crop",
    "random_horizontal_flip",
    "rand_augment",
    "random_erase",
)


class PlainUnpickler(pickle.Unpickler):
    """Containers, numbers and strings; of numpy only scalars."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return lambda dtype, data: np.frombuffer(data, dtype)[0].item()
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


class Archive(NamedTuple):
    """One reference archive."""

    config: dict[str, Any]
    samples: list[list[Any]]  # parameters by image and sample
    replayed: np.ndarray  # float32 [images, samples, 3, H, W]
    images: list[Path]


def unpickle(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        return PlainUnpickler(io.BytesIO(archive.read(name))).load()


@cache
def load(layout: str, name: str) -> Archive:
    folder = GOLDEN / layout
    with tarfile.open(folder / f"{name}.tar.gz") as tar:
        files = {Path(m.name).name: tar.extractfile(m) for m in tar if m.isfile()}
        parts = {n.removesuffix(".pth.tar"): unpickle(f.read()) for n, f in files.items() if f}
    config = parts.pop("config")["reinforce"]["image_augmentation"]
    stored = dict(parts.values())
    order = json.loads((folder / "meta.json").read_text())["sets"][name]["samples_order"]
    with np.load(folder / f"{name}.npz") as arrays:
        replayed = arrays["replayed"]
    params = [[sample["params"] for sample in stored[i]] for i in range(len(order))]
    return Archive(config, params, replayed, [folder / "images" / "train" / key for key in order])


def policy_of(config: dict[str, Any]) -> Policy:
    enabled = {
        name: {k: v for k, v in values.items() if k != "enable"}
        for name, values in config.items()
        if values.get("enable", True) and name not in ("uint8", "to_tensor", "normalize")
    }
    return Policy.from_config(enabled)


def by_name(config: dict[str, Any], stored: Any) -> tuple[int | None, dict[str, Any]]:
    """The partner and {transform: (parameters, of the partner) or of the mixing}."""
    mixes = "mixup" in config or "cutmix" in config
    if isinstance(stored, dict):
        mixed = any(stored.get(m) is not None for m in ("mixup", "cutmix"))
        named = {n: v for n, v in stored.items() if n not in (*WITHOUT_PARAMETERS, "id2")}
        return (stored["id2"] if mixed else None), named
    partner = stored[0] if mixes else None
    names = [n for n in (*ORDER, "mixup", "cutmix") if n in config]
    values = dict(zip(names, stored[1:] if mixes else stored, strict=True))
    if partner is None:
        values = {n: v if n in ("mixup", "cutmix") else (v, None) for n, v in values.items()}
    return partner, values


def view_params(policy: Policy, named: dict[str, Any], which: int) -> list[Any]:
    """One view's parameters as ours: a stored None is a transform that was skipped."""
    view: list[Any] = []
    for transform in policy.transforms:
        value = named[transform.name][which]
        if transform.name == "rand_augment":
            view.append((0,) * transform.num_ops if value is None else operations(policy, value))
        elif transform.name == "random_erase":
            view.append((0, 0, 0, 0) if value is None else tuple(value))
        elif transform.name == "random_horizontal_flip":
            view.append(int(value))
        elif transform.field is not None:
            view.append(tuple(value))
    return view


def operations(policy: Policy, stored: list[tuple[Any, float]]) -> tuple[int, ...]:
    """Our codes; the stored magnitudes must be exactly those that we compute."""
    (ra,) = [t for t in policy.transforms if t.name == "rand_augment"]
    codes = []
    for operation, strength in stored:
        index = operation_names().index(operation) if isinstance(operation, str) else operation
        ours = OPERATIONS[index].magnitude(ra.magnitude, ra.num_magnitude_bins, policy.view_size)
        assert abs(strength) == ours, OPERATIONS[index]
        codes.append(index | (0x80 if strength < 0 else 0))
    return tuple(codes)


def params_of(policy: Policy, config: dict[str, Any], stored: Any) -> AugmentParams:
    partner, named = by_name(config, stored)
    view = view_params(policy, named, 0)
    if partner is None:
        return AugmentParams(view)
    mixing = []
    for mix in policy.mixings:
        value = named[mix.name]
        if value is None:
            mixing.append(mix.unmixed)
        elif mix.name == "mixup":
            mixing.append(value)
        else:  # a weight that only the labels need, and the box, flat or nested
            mixing.append(tuple(value[1:] if len(value) == 5 else value[1]))
    return AugmentParams(view, int(partner), view_params(policy, named, 1), mixing)


def replay(archive: Archive) -> Any:
    """Yield (our params, our view, ml-dr's normalised view) for every stored sample."""
    policy = policy_of(archive.config)
    images = [open_image(path, path.name) for path in archive.images]
    for i, samples in enumerate(archive.samples):
        for j, stored in enumerate(samples):
            params = params_of(policy, archive.config, stored)
            partner = None if params.partner is None else images[params.partner]
            view = policy.apply(images[i], params, partner)
            yield params, view, torch.from_numpy(archive.replayed[i, j])


def normalized(archive: Archive, view: torch.Tensor) -> torch.Tensor:
    values = archive.config["normalize"]
    return normalize(view, values["mean"], values["std"])


@needs_pillow_13
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", UNMIXED)
def test_views_are_those_of_mldr_bit_for_bit(layout: str, name: str) -> None:
    archive = load(layout, name)
    count = 0
    for params, view, theirs in replay(archive):
        assert params.partner is None
        assert torch.equal(normalized(archive, view), theirs)
        count += 1
    assert count == {"compressed": 40, "uncompressed": 24}[layout]


@needs_pillow_13
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MIXED)
def test_mixed_views_are_those_of_mldr_within_half_a_level(layout: str, name: str) -> None:
    # ml-dr mixes floats after normalising them; we mix, and round, levels. CutMix alone is exact.
    archive = load(layout, name)
    config = archive.config["normalize"]
    mean, std = (torch.tensor(config[k], dtype=torch.float64)[:, None, None] for k in config)
    exact = blended = 0
    for params, view, theirs in replay(archive):
        if params.partner is None or params.mixing[0] == 1.0:
            assert torch.equal(normalized(archive, view), theirs)
            exact += 1
        else:
            levels = (theirs.double() * std + mean) * 255
            # The weight's 16 bits may add 255 / 2**17 of a level to the rounding.
            assert (levels - view).abs().max() <= 0.5 + 255 / 2**17 + 1e-4
            blended += 1
    assert min(exact, blended) >= 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_archives_use_every_operation(layout: str) -> None:
    # Otherwise the comparisons above would show less than they seem to.
    codes = {
        code
        for name in ("randaug", "randaug_mixing", "cifar")
        for params, _, _ in replay(load(layout, name))
        for view in (params.view, params.partner_view)
        for entry in view
        if isinstance(entry, tuple) and len(entry) == 2 and max(entry) < 0x80 + len(OPERATIONS)
        for code in entry
    }
    assert {code & 0x7F for code in codes} >= set(range(len(OPERATIONS)))


def test_a_pickle_with_code_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="not plain data"):
        PlainUnpickler(io.BytesIO(pickle.dumps(Path("x")))).load()
