"""Damaged and hostile checkpoint files: an error of ours, and no more memory than the file has."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import serialization

from dr_models.checkpoints import convert, load_backbone, load_checkpoint, read_metadata
from dr_models.checkpoints.values import DIGEST_KEY, digest
from dr_plugins.errors import CheckpointError

STATE = {"a.weight": torch.arange(1.0, 601.0).view(20, 30), "a.bias": torch.ones(20)}


def saved(path: Path, content: Any = STATE) -> Path:
    torch.save(content, path)
    return path


def with_flipped_bits(path: Path, count: int) -> Iterator[int]:
    """The file with one wrong bit, each time another one; gives the byte that it is in."""
    whole = path.read_bytes()
    for place in random.Random(0).sample(range(len(whole) * 8), count):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        yield place // 8


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"state_dict": STATE, "arch": "resnet18"})
    start = path.read_bytes().index(STATE["a.weight"].numpy().tobytes())
    for byte in with_flipped_bits(path, 300):
        try:
            found = load_checkpoint(path)
        except CheckpointError:
            continue
        assert not start <= byte < start + 2400
        assert found.arch == "resnet18"
        assert all(torch.equal(found.state[key], STATE[key]) for key in STATE)


def test_a_part_of_a_download_is_called_truncated(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=rf"{path} is truncated: {path.stat().st_size:,}"):
        load_checkpoint(path)


def test_files_written_without_checksums_are_read(tmp_path: Path) -> None:
    before = serialization.get_crc32_options()
    serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "a.pt")
    finally:
        serialization.set_crc32_options(before)
    assert load_checkpoint(path).state.keys() == STATE.keys()


def test_a_converted_file_notices_a_flipped_bit(tmp_path: Path) -> None:
    """safetensors has no checksums; ours carry one."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    out = tmp_path / "out.safetensors"
    convert(saved(tmp_path / "a.pt", network.state_dict()), out, arch="timm:test_resnet")
    whole = load_backbone(str(out), to="timm")
    for _ in with_flipped_bits(out, 60):
        try:
            found = load_backbone(str(out), to="timm")
        except CheckpointError:
            continue
        assert found.convention == whole.convention
        assert all(torch.equal(found.state[key], whole.state[key]) for key in whole.state)


def deflated(path: Path) -> None:
    """As the original, but for 64 MB of zeros that are a few KB in the file."""
    saved(path, {"a.weight": torch.zeros(1 << 24)})
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name, data)


def overlapping(path: Path) -> None:
    """Two entries of the directory for one piece of the file."""
    data = saved(path).read_bytes()
    with zipfile.ZipFile(path) as file:
        first = next(each for each in file.infolist() if each.filename.endswith("data/0"))
        second = next(each for each in file.infolist() if each.filename.endswith("data/1"))
    directory = data.rindex(b"PK\x01\x02", 0, data.rindex(second.filename.encode()))
    entry = bytearray(data)
    entry[directory + 20 : directory + 28] = struct.pack("<II", len(data), len(data))
    entry[directory + 42 : directory + 46] = struct.pack("<I", first.header_offset)
    path.write_bytes(entry)


def expanded(path: Path) -> None:
    saved(path, {"a.weight": torch.ones(1).expand(1 << 40)})


def without_memory(path: Path) -> None:
    saved(path, {"a.weight": torch.empty(1 << 40, device="meta")})


def repeated_string(path: Path) -> None:
    """Encoded again for each time it is mentioned."""
    text = "x" * (1 << 20)
    body = pickle.PROTO + b"\x02]q\x00(X" + struct.pack("<I", len(text)) + text.encode() + b"q\x01"
    body += b"c_codecs\nencode\nq\x02" + b"h\x02h\x01X\x06\x00\x00\x00latin1\x86R" * 1000 + b"e."
    replaced_pickle(path, body)


def bytes_out_of_nothing(path: Path) -> None:
    replaced_pickle(path, b"\x80\x02cbuiltins\nbytearray\nq\x00J\xff\xff\xff\x7f\x85R.")


def replaced_pickle(path: Path, body: bytes) -> None:
    with zipfile.ZipFile(saved(path)) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, body if name.endswith("data.pkl") else data)


def legacy_bytes_out_of_nothing(path: Path) -> None:
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    stream = io.BytesIO(path.read_bytes())
    for _ in range(3):
        pickle.load(stream)
    bomb = b"\x80\x02cbuiltins\nbytearray\nq\x00J\xff\xff\xff\x7f\x85R."
    path.write_bytes(stream.getvalue()[: stream.tell()] + bomb)


@pytest.fixture
def _little_memory() -> Iterator[None]:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's accounting")
@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize(
    "write",
    [
        deflated,
        overlapping,
        expanded,
        without_memory,
        repeated_string,
        bytes_out_of_nothing,
        legacy_bytes_out_of_nothing,
    ],
)
def test_no_file_takes_more_memory_than_it_has_bytes(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "a.pt")
    assert "a.pt" in str(error.value)
    assert not isinstance(error.value.__cause__, MemoryError)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "a\0b"):
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_the_index_of_a_sharded_checkpoint_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match="sharded"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore")
def test_a_program_is_called_that(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt.*TorchScript"):
        load_checkpoint(tmp_path / "a.pt")


JUNK = (
    *(None, 1, -1.5, True, "text", "x" * 10_000, b"bytes", [], {}, (), [1, [2]], {"a": {"b": 1}}),
    *(torch.tensor(1.0), torch.ones(0), torch.ones(2, 3), torch.ones(3, dtype=torch.complex64)),
    *(torch.ones(3, dtype=torch.int8), torch.ones(3, dtype=torch.bool), torch.full((3,), 1e-42)),
    *(torch.full((3,), float("nan")), torch.full((64,), -1.0), argparse.Namespace(model=[1])),
)


def mutated(draw: random.Random, value: Any) -> Any:
    """A copy with one place changed: exchanged, removed, added, or given another name."""
    if not isinstance(value, dict) or not value or draw.random() < 0.15:
        return draw.choice(JUNK)
    key, changed = draw.choice(list(value)), dict(value)
    kind = draw.randrange(5)
    if kind == 0:
        del changed[key]
    elif kind == 1:
        changed[draw.choice(["model.", "module.", "extra", 7, "_orig_mod"])] = draw.choice(JUNK)
    elif kind == 2:
        changed[draw.choice([key * 2, 3, (1, 2), ""]) if isinstance(key, str) else 1] = value[key]
    else:
        changed[key] = mutated(draw, value[key])
    return changed


def test_files_of_any_structure_load_whole_or_are_refused(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    whole = {
        "state_dict": dict(state),
        "arch": "test_resnet",
        "args": {"model": "test_resnet"},
        "meta": {"cfg": "model = dict(type='TimmClassifier', model='test_resnet')"},
        "message_hub": {},
        "ema_state_dict": {f"module.{key}": value for key, value in state.items()},
        "dr_plugins": {"format_version": "1", "mean": "[0, 0, 0]", "layout": "timm", "arch": "x"},
    }
    draw = random.Random(0)
    path, loaded, longest = tmp_path / "a.pt", 0, 0
    for _ in range(80):
        content: Any = whole
        for _ in range(draw.randint(1, 4)):
            content = mutated(draw, content)
        saved(path, content)
        for use in (
            lambda: load_backbone(str(path), to="timm", arch="test_resnet"),
            lambda: convert(path, tmp_path / "o.safetensors", arch="timm:test_resnet"),
            lambda: read_metadata(path),
        ):
            try:
                use()
                loaded += 1
            except CheckpointError as error:
                longest = max(longest, len(str(error)))
    assert loaded > 10
    assert 100 < longest < 2000


def test_metadata_of_any_kind_are_read_or_refused(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    out = tmp_path / "a.safetensors"
    convert(saved(tmp_path / "a.pt", state), out, arch="timm:test_resnet")
    metadata, refused = dict(read_metadata(out)), []
    for key in metadata:
        for value in (None, "7", "[" * 5000, "[NaN, 1, 1]"):
            changed = {**metadata, key: value}
            kept = {name: each for name, each in changed.items() if each is not None}
            kept[DIGEST_KEY] = digest(state, kept)
            safetensors.torch.save_file(state, out, kept)
            try:
                load_backbone(str(out), to="timm", arch="test_resnet")
            except CheckpointError as error:
                refused.append(str(error))
    assert len(refused) > 10
    assert all("a.safetensors" in text for text in refused)
