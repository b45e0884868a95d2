"""Reading the records of a remote set against mosaicml-streaming, behind a slow line.

It is not among this project's requirements: `pip install mosaicml-streaming` first, in another
environment. It stores an image's records as one item, in files as large as our shards.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.remote import BATCH, IMAGES, SAMPLES, SHARD_IMAGES, Line, batches
from benchmarks.synthetic import make_empty_set
from dr_plugins.policies.policy import Policy
from dr_plugins.shards.reader import ShardSet

_KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}


def main(out: Path) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_empty_set(
            folder / "set",
            Policy.load("randaug"),
            images=IMAGES,
            samples=SAMPLES,
            shards=IMAGES // SHARD_IMAGES + 1,
        )
        server = Line(folder)
        address = f"http://127.0.0.1:{server.server_port}"
        os.environ.update(_KEYS, DR_PLUGINS_CACHE=str(folder / "cache"), S3_ENDPOINT_URL=address)
        _Streaming.write(ShardSet(folder / "set"), folder / "streaming")
        readers: dict[str, Callable[[], Any]] = {
            "ours": lambda: _Ours(f"{address}/set"),
            "streaming": lambda: _Streaming(folder),
        }
        process = multiprocessing.get_context("fork").Process(target=server.serve_forever)
        process.start()
        try:
            results = {}
            for name, read in readers.items():
                results[name] = _measure(read, server)
                print(name, json.dumps(results[name]), flush=True)
        finally:
            process.terminate()
    out.mkdir(parents=True, exist_ok=True)
    (out / "remote_peers.json").write_text(json.dumps(results, indent=1))


def _measure(open_reader: Callable[[], Any], server: Line) -> dict[str, float]:
    before, start = server.sent.value, time.perf_counter()
    reader = open_reader()
    steps = reader.epoch(0)
    next(steps)
    first = time.perf_counter() - start
    count = 1 + sum(1 for _ in steps)
    epoch = time.perf_counter() - start
    sent = server.sent.value - before
    reader.finish()
    start = time.perf_counter()
    count = sum(1 for _ in reader.epoch(1))
    return {
        "first batch, s": round(first, 2),
        "first epoch, s": round(epoch, 2),
        "MB on the wire in it": round(sent / 1e6, 1),
        "MB in all": round((server.sent.value - before) / 1e6, 1),
        "later epoch, s": round(time.perf_counter() - start, 2),
        "batches": count,
    }


class _Ours:
    def __init__(self, address: str) -> None:
        self.shards = ShardSet(address)

    def epoch(self, number: int) -> Iterator[np.ndarray]:
        for rows, samples in batches(number):
            yield self.shards.read(rows, samples)

    def finish(self) -> None:
        """Wait until the whole set is here."""
        self.shards._shards._stream._fetcher.join()  # type: ignore[attr-defined]


class _Streaming:
    """One item for each image: all its records."""

    def __init__(self, folder: Path) -> None:
        from streaming import StreamingDataset

        self.reader = StreamingDataset(
            remote="s3://streaming",
            local=str(folder / "streaming-cache"),
            shuffle=True,
            batch_size=BATCH,
        )

    def epoch(self, number: int) -> Iterator[np.ndarray]:
        rng, found = np.random.default_rng(number), []
        for item in self.reader:
            records = item["records"]
            each = len(records) // SAMPLES
            sample = int(rng.integers(0, SAMPLES))
            found.append(records[sample * each : (sample + 1) * each])
            if len(found) == BATCH:
                yield np.frombuffer(b"".join(found), np.uint8)
                found = []
        if found:
            yield np.frombuffer(b"".join(found), np.uint8)

    def finish(self) -> None:
        """Nothing is left to come."""

    @staticmethod
    def write(shards: ShardSet, out: Path) -> None:
        from streaming import MDSWriter

        size = SHARD_IMAGES * _image_bytes(shards)
        with MDSWriter(out=str(out), columns={"records": "bytes"}, size_limit=size) as writer:
            for records in _records(shards):
                writer.write({"records": records})


def _image_bytes(shards: ShardSet) -> int:
    return SAMPLES * shards.manifest.layout.itemsize


def _records(shards: ShardSet) -> Iterator[bytes]:
    for number in range(len(shards.manifest.shards)):
        for records in shards.records(number):
            yield records.tobytes()


if __name__ == "__main__":
    main(Path("benchmarks/output"))
