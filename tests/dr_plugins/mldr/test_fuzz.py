"""Archives with random damage: a set, or a typed error; never anything else."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from dr_plugins.errors import ReinforcementError
from dr_plugins.mldr import ImageOrder, ImportSettings, import_archives

from .conftest import Members, saved, write_tar

CASES = 12  # of each kind and seed
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1 << 31, 1 << 62, -(1 << 62), float("nan"), float("inf"), 1e308),
    *("", "x" * 3000, [], (), {}, [[]], {"a": 1}, [1, 2, 3, 4], (1, 2, 3, 4)),
]


def change(rng: random.Random, value: Any) -> Any:
    """Plain data with one change somewhere."""
    if rng.random() < 0.1 or not isinstance(value, list | tuple | dict) or not value:
        return rng.choice(ODD)
    if isinstance(value, dict):
        keys = list(value)
        if rng.random() < 0.2:
            return {**value, rng.choice(["mixup", "rand_augment", "enable"]): rng.choice(ODD)}
        key = rng.choice(keys)
        if rng.random() < 0.1:
            return {name: value[name] for name in keys if name != key}
        return {**value, key: change(rng, value[key])}
    items = list(value)
    at = rng.randrange(len(items))
    if rng.random() < 0.1:
        del items[at]
    elif rng.random() < 0.1:
        items.insert(at, rng.choice(items))
    else:
        items[at] = change(rng, items[at])
    return tuple(items) if isinstance(value, tuple) else items


def damage(rng: random.Random, data: bytes) -> bytes:
    """Bytes of which some are changed, lost, doubled or new."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        at, other = rng.randrange(len(found)), rng.randrange(len(found))
        new = rng.randbytes(rng.randrange(1, 20))
        kind = rng.randrange(4)
        if kind < 2:
            found[at] = rng.choice([0, 255, new[0], found[at] ^ 1 << rng.randrange(8)])
        elif kind == 2 and len(found) > 1000:
            del found[at : at + len(new)]
        else:
            found[at:at] = rng.choice([new, found[other : other + 16]])
    return bytes(found)


@pytest.mark.parametrize("kind", ["values", "pickle", "joblib", "zip", "tar", "gzip"])
@pytest.mark.parametrize("seed", range(2))
def test_damaged_archives(tmp_path: Path, members: Members, kind: str, seed: int) -> None:
    rng = random.Random(f"{kind} {seed}")
    (tmp_path / "list").write_text("\n".join(f"c{i // 3}/{i}.png" for i in range(12)))
    order = ImageOrder.of_list(tmp_path / "list")
    whole = members()
    accepted = 0
    for case in range(CASES):
        named = list(whole)
        number = rng.randrange(len(named))
        name, data = named[number]
        content = torch.load(io.BytesIO(data), weights_only=False)
        if kind == "values":
            data = saved(change(rng, content))
        elif kind == "pickle":
            data = damage(rng, pickle.dumps(content, rng.choice([2, 4])))
        elif kind == "joblib":
            data = damage(rng, zlib.compress(pickle.dumps(content, 4)))
        elif kind == "zip":
            data = damage(rng, data)
        named[number] = name, data
        archive = write_tar(tmp_path / f"{case}.tar", named, "w:gz" if kind == "gzip" else "w")
        if kind in ("tar", "gzip"):
            archive.write_bytes(damage(rng, archive.read_bytes()))
        with contextlib.suppress(ReinforcementError):
            import_archives([archive], order, tmp_path / f"{case}", ImportSettings(min_agreement=0))
            accepted += 1
    assert accepted < CASES  # some of it is noticed, whatever the kind
