"""Importing ml-dr's archives: images per second, bytes per reinforcement, hours for ImageNet."""

from __future__ import annotations

import io
import os
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import Row, report
from dr_plugins import randomness
from dr_plugins.mldr import ImageOrder, ImportSettings, import_archives
from dr_plugins.mldr.archive import iter_members
from dr_plugins.mldr.decode import Decoder
from dr_plugins.mldr.serialization import load_member
from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.records import RecordLayout, target_fields
from dr_plugins.transforms import RandAugment
from dr_plugins.transforms.operations import OPERATIONS

SAMPLES, TOPK, IMAGES, CLASSES, IMAGENET = 400, 10, 256, 1000, 1_281_167
PUBLISHED = {"rrc": 65, "mixing": 90, "randaug": 73, "randaug_mixing": 104}
CORES = os.cpu_count() or 1


def main(out: Path) -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, published in PUBLISHED.items():
            rows += _measure(name, published, Path(folder))
    report(f"Importing, S = {SAMPLES}, k = {TOPK}, {CORES} cores", rows, out / "importing.json")


def _measure(name: str, published: int, folder: Path) -> list[Row]:
    policy = Policy.load(name)
    archive = folder / f"{name}.tar.gz"
    names = [f"n{i // 2:08d}/n{i // 2:08d}_{i}.JPEG" for i in range(IMAGES)]
    _write_archive(archive, policy)
    (folder / "list").write_text("\n".join(names))
    order = ImageOrder.of_list(folder / "list")
    settings = ImportSettings(CLASSES, min_agreement=0, workers=CORES)
    start = time.perf_counter()
    distributed = _cpu_seconds(
        lambda: import_archives([archive], order, folder / f"{name}-set", settings)
    )
    whole = time.perf_counter() - start
    members = [read() for member, read in iter_members(archive) if member.index is not None]
    streamed = _cpu_seconds(lambda: [read() for _, read in iter_members(archive)])
    decode, loaded = _decode_and_load(policy, members)
    # The main process reads the archive twice and distributes members to workers, which decode.
    hours = {
        cores: IMAGENET / IMAGES / 3600 * max(distributed, streamed + decode / cores)
        for cores in (CORES, 16)
    }
    size = sum(file.stat().st_size for file in (folder / f"{name}-set").iterdir())
    each = size / (IMAGES * SAMPLES)
    own = archive.stat().st_size / (IMAGES * SAMPLES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"{name}: {IMAGES / whole:.0f} images/s including the start of the workers; one core "
        f"decompresses {IMAGES / streamed:.0f}, scans and distributes "
        f"{IMAGES / distributed:.0f}, decodes "
        f"{IMAGES / decode:.0f} images/s. At these rates 1.28 M images take "
        f"{' and '.join(f'{h:.1f} h on {cores} free cores' for cores, h in hours.items())}. "
        f"Peak memory {peak:.0f} MiB, largest child process {workers:.0f} MiB"
    )
    ours, theirs = decode / IMAGES * 1e3, loaded / IMAGES * 1e3
    peer, here = "unsafe torch.load", "this benchmark's gzip archive"
    return [
        Row(
            f"decode, check, seal one image, {name}", peer, "ms", ours, theirs, theirs / ours, 0.05
        ),
        Row(f"bytes per reinforcement, {name}", here, "bytes", each, own, own / each, 1.0),
        Row(
            f"bytes per reinforcement, {name}",
            "the published gzip archive",
            "bytes",
            each,
            published,
            published / each,
            1.0,
        ),
    ]


def _decode_and_load(policy: Policy, members: list[bytes]) -> tuple[float, float]:
    layout = RecordLayout((*policy.fields, *target_fields(TOPK, CLASSES)))
    decoder = Decoder(policy, layout, SAMPLES, TOPK, CLASSES, IMAGES)

    def decode() -> None:
        for data in members:
            content = load_member(data)
            layout.seal(decoder.decode(content, content[0]), b"n01440764/n01440764_10026.JPEG", 0)

    def load() -> None:
        for data in members:
            torch.load(io.BytesIO(data), weights_only=False)

    pairs = [(_cpu_seconds(decode), _cpu_seconds(load)) for _ in range(3)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def _cpu_seconds(function: Callable[[], Any]) -> float:
    """Measure processor time, which other programs do not affect."""
    start = time.process_time()
    function()
    return time.process_time() - start


def _write_archive(path: Path, policy: Policy) -> None:
    """Write random reinforcements of 500x375 images in the published layout."""
    with tarfile.open(path, "w:gz", compresslevel=6) as tar:
        for index in np.random.default_rng(0).permutation(IMAGES).tolist():
            _add(tar, f"reinforced_data/{index}.pth.tar", (index, _reinforcements(policy, index)))
        transforms = {name: v for name, v in policy.to_config().items() if name != "backend"}
        if "rand_augment" in transforms:  # ml-dr's configurations do not list its operations
            del transforms["rand_augment"]["operations"]
        reinforce = {"num_samples": SAMPLES, "topk": TOPK, "image_augmentation": transforms}
        config = {"dataset": "imagenet", "reinforce": reinforce}
        _add(tar, "reinforced_data/config.pth.tar", config)


def _add(tar: tarfile.TarFile, name: str, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=4)
    info = tarfile.TarInfo(name)
    info.size = buffer.tell()
    buffer.seek(0)
    tar.addfile(info, buffer)


def _reinforcements(policy: Policy, index: int) -> list[dict[str, Any]]:
    rng = randomness.image_generator(0, index, 0)
    partners = [(row, (375, 500)) for row in range(IMAGES)]
    top = torch.from_numpy(rng.normal(0, 2, (SAMPLES, CLASSES))).softmax(-1).float().topk(TOPK)
    return [
        {"params": _compressed(policy, policy.sample(rng, (375, 500), partners)), "prob": answer}
        for answer in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]


def _compressed(policy: Policy, params: AugmentParams) -> list[Any]:
    view = _values(policy, params.view)
    if not policy.mixings:
        return view
    if params.partner is None:
        return [None, *view, *(None for _ in policy.mixings)]
    pairs = zip(view, _values(policy, params.partner_view), strict=True)
    weight, box = params.mixing
    return [
        params.partner,
        *map(list, pairs),
        None if weight == 1.0 else weight,
        None if tuple(box) == (0, 0, 0, 0) else [0.5, *(np.int64(edge) for edge in box)],
    ]


def _values(policy: Policy, view: Any) -> list[Any]:
    values: list[Any] = []
    for transform, value in zip(policy.transforms, view, strict=True):
        if isinstance(transform, RandAugment):
            size = policy.view_size
            signs = [-1.0 if code & 128 else 1.0 for code in value]
            found = [OPERATIONS[c & 127].magnitude(transform.magnitude, 31, size) for c in value]
            pairs = zip(value, signs, found, strict=True)
            values.append([(code & 127, sign * strength) for code, sign, strength in pairs])
        elif transform.name == "random_horizontal_flip":
            values.append(bool(value))
        elif transform.name == "random_erase":
            values.append(tuple(value) if value[2] else None)
        else:
            values.append(tuple(value))
    return values
