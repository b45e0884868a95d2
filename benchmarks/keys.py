"""Opening, describing and verifying sets of many images: seconds, and memory of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.synthetic import set_settings
from dr_plugins.policies.policy import Policy
from dr_plugins.records import RecordLayout, set_checksum, target_fields
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import FileEntry, Manifest, library_versions, settings_digest
from dr_plugins.shards.shard import Shard, shard_name

IMAGES = (1_281_167, 14_197_122, 100_000_000)  # ImageNet-1k, ImageNet-21k
CLASSES, SHARD_IMAGES, BATCH = 1000, 8192, 256
_ALL_KEYS = 20_000_000  # lists of more names do not fit into this machine's memory
_CHUNK = 1 << 20


def main(out: Path, images: tuple[int, ...] = IMAGES) -> None:
    """Measure and report."""
    results: dict[str, dict[str, Any]] = {}
    for count in images:
        with tempfile.TemporaryDirectory() as folder:
            make_large_set(Path(folder), count)
            tasks = [name for name in _TASKS if name != "rows" or count < _ALL_KEYS]
            results[f"{count:,}"] = {name: _measure(folder, name) for name in tasks}
        print(count, json.dumps(results[f"{count:,}"]), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "keys.json").write_text(json.dumps(results, indent=1))


def make_large_set(out: Path, images: int) -> None:
    """Write a set of one empty record per image; only those that are read are sealed."""
    keys = _keys(out, images)
    policy = Policy.load("rrc")
    layout = RecordLayout((*policy.fields, *target_fields(1, CLASSES)))
    settings = set_settings(policy, 1, 1, CLASSES)
    set_id, entries = settings_digest(settings), []
    read = _read_rows(images)
    for number, first in enumerate(range(0, images, SHARD_IMAGES)):
        shard = Shard.empty(first, min(SHARD_IMAGES, images - first), 1, layout)
        for row in read[(first <= read) & (read < first + SHARD_IMAGES)].tolist():
            layout.seal(shard.records[row - first], keys.encoded(row), set_checksum(set_id))
        entries.append(shard.save(out / shard_name(number), layout, set_id))
    index = FileEntry("index.safetensors", keys.save(out / "index.safetensors"), images)
    Manifest(settings, layout, index, tuple(entries), library_versions()).save(out)


def _read_rows(images: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).choice(images, BATCH, replace=False))


def _keys(out: Path, images: int) -> KeyIndex:
    """Names like ImageNet's, in order; on disk, since they may be larger than memory."""
    width = len(_name(0, 0))
    with tempfile.TemporaryFile(dir=out) as file:
        text = np.memmap(file, np.uint8, "w+", shape=(images, width))
        per_class = -(-images // CLASSES)
        for first in range(0, images, _CHUNK):
            rows = range(first, min(first + _CHUNK, images))
            names = b"".join(_name(*divmod(row, per_class)) for row in rows)
            text[rows.start : rows.stop] = np.frombuffer(names, np.uint8).reshape(-1, width)
        ends = np.arange(width, images * width + 1, width, dtype=np.int64)
        return KeyIndex(text.reshape(-1), ends)


def _name(number: int, image: int) -> bytes:
    return b"n%08d/n%08d_%09d.JPEG" % (number, number, image)


_TASKS = {
    "open": """
        shards = ShardSet(folder)
        wanted = [shards.keys[row] for row in rows]
        shards.read(shards.keys.rows(wanted), np.zeros(len(rows), np.int64))
    """,
    "info": "describe(ShardSet(folder))",
    "verify": "assert not verify(folder).problems",
    "rows": "shards.keys.rows(names)",
}
_PROGRAM = """
import json, re, sys, textwrap, threading, time
from pathlib import Path
import numpy as np
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.describe import describe
from dr_plugins.tools.verify import verify

def own():
    # Mapped files are the system's cache, which all processes share and can lose.
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def watch():
    global most
    while True:
        most = max(most, own())
        time.sleep(0.002)

folder, task, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if task == "shards.keys.rows(names)":
    shards = ShardSet(folder)
    names = shards.keys[:]
if __name__ == "__main__":
    before = most = own()
    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    exec(textwrap.dedent(task))
    print(json.dumps({"s": time.perf_counter() - start, "MB": (most - before) / 1e6}))
"""


def _measure(folder: str, name: str) -> dict[str, float]:
    """Seconds and own memory in a fresh process, after a run that warms the system's cache."""
    images = json.loads((Path(folder) / "manifest.json").read_text())["index"]["images"]
    program = Path(folder) / "task.py"
    program.write_text(_PROGRAM)
    command = [
        sys.executable,
        str(program),
        folder,
        _TASKS[name],
        json.dumps(_read_rows(images).tolist()),
    ]
    for _ in range(1 if name.startswith(("verify", "rows")) else 2):
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured: dict[str, float] = json.loads(text)
    return {key: round(value, 3) for key, value in measured.items()}


@click.command()
@click.argument("images", nargs=-1, type=int)
def _command(images: tuple[int, ...]) -> None:
    main(Path("benchmarks/output"), images or IMAGES)


if __name__ == "__main__":
    _command()
