"""A set on a server behind a slow line, against the same set on the disk."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Limit, report
from benchmarks.synthetic import make_synthetic_set
from dr_plugins.policies.policy import Policy
from dr_plugins.shards.mapped import StreamedShards
from dr_plugins.shards.reader import ShardSet

IMAGES, SAMPLES, SHARD_IMAGES = 20_000, 60, 512
BATCH = 256
RATE, DELAY = 100e6 / 8, 0.02  # bytes per second of the whole line, seconds until an answer
_PIECE = 1 << 14
_EPOCHS = 9


def main(out: Path) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_synthetic_set(
            folder / "set",
            Policy.load("randaug"),
            images=IMAGES,
            samples=SAMPLES,
            topk=10,
            shard_images=SHARD_IMAGES,
        )
        size = sum(path.stat().st_size for path in (folder / "set").iterdir())
        os.environ["DR_PLUGINS_CACHE"] = str(folder / "cache")
        server = Line(folder)
        process = multiprocessing.get_context("fork").Process(target=server.serve_forever)
        process.start()
        try:
            rows = _measure(f"http://127.0.0.1:{server.server_port}/set", folder / "set", size)
        finally:
            process.terminate()
    title = (
        f"Remote: {IMAGES:,} images x {SAMPLES} ({size / 1e6:.0f} MB) behind a line of 100 Mbit/s, "
        f"20 ms until an answer"
    )
    report(title, rows, out / "remote.json")


def _measure(address: str, directory: Path, size: int) -> list[Limit]:
    start = time.perf_counter()
    far, near = ShardSet(address), ShardSet(directory)
    steps = batches(0)
    _read(far, [next(steps)])
    first = time.perf_counter() - start
    _read(far, steps)
    epoch = time.perf_counter() - start
    assert isinstance(far._shards, StreamedShards)
    fetcher = far._shards._stream._fetcher
    assert fetcher is not None
    fetcher.join()
    arrived = time.perf_counter() - start
    again = ShardSet(address)
    for shards in (again, near):
        _read(shards, batches(1))
    ratios = [_seconds(near, e) / _seconds(again, e) for e in range(2, 2 + _EPOCHS)]
    return [
        Limit("first batch, cold", "s", first, 10.0),
        Limit("first epoch of reading alone", "s", epoch, size / RATE / 0.8),
        Limit("whole set here, against what the line can carry", "x", arrived * RATE / size, 1.25),
        Limit("reading on the disk / of the remote set, later", "x", 1 / np.median(ratios), 1.05),
    ]


def batches(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(epoch)
    order = rng.permutation(IMAGES)
    for start in range(0, IMAGES, BATCH):
        rows = order[start : start + BATCH]
        yield rows, rng.integers(0, SAMPLES, len(rows))


def _read(shards: ShardSet, batches: Any) -> None:
    for rows, samples in batches:
        shards.read(rows, samples)


def _seconds(shards: ShardSet, epoch: int) -> float:
    steps = list(batches(epoch))
    start = time.perf_counter()
    _read(shards, steps)
    return time.perf_counter() - start


class Line(ThreadingHTTPServer):
    """Serves a folder, also to clients of S3; all connections share one line.

    Attributes:
        sent: Bytes of all answers so far, also for the process that started this one.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder, self._free = folder, time.monotonic()
        self.sent = multiprocessing.Value("q", 0)

    def wait(self, size: int) -> None:
        """Wait until the line has carried so many bytes."""
        with self.sent.get_lock():
            self.sent.value += size
        self._free = max(self._free, time.monotonic()) + size / RATE
        time.sleep(max(self._free - time.monotonic(), 0))


class _Answer(BaseHTTPRequestHandler):
    server: Line
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(DELAY)
        file = self.server.folder / self.path.partition("?")[0].lstrip("/")
        if not file.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        asked = self.headers.get("Range")
        if asked:
            begin, end = asked.removeprefix("bytes=").split("-")
            part = data[int(begin) : int(end or len(data)) + 1]
            area, data = f"bytes {begin}-{int(begin) + len(part) - 1}/{len(data)}", part
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", area)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{file.name}"')  # clients of S3 expect one
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            self.server.wait(len(piece))
            self.wfile.write(piece)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Say nothing."""
