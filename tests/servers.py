"""A web server for tests that serves a folder, with faults."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_STATUS = {"busy": 503, "denied": 403}


class FaultyServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        faults: How many of the next requests fail, by kind: ``drop`` sends half of the answer,
            ``stall`` half, and the rest after a second, ``busy`` status 503, ``denied`` 403,
            ``flip`` a flipped bit in a shard or index, ``whole`` the whole file instead of a range,
            ``shift`` a range beside the one asked for.
        only: Faults concern these methods of access: ``whole`` files or a ``range``.
        requests: Number of requests, by file and whether a range was asked for.
        tagged: Whether answers have an ETag.
        bodies: How many files were sent whole, by name.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: Counter[str] = Counter()
        self.only = {"whole", "range"}
        self.requests: Counter[tuple[str, str]] = Counter()
        self.lock = threading.Lock()
        self.tagged = False
        self.bodies: Counter[str] = Counter()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, access: str) -> str | None:
        """Take the next fault."""
        with self.lock:
            if access not in self.only:
                return None
            for kind in self.faults:
                if self.faults[kind] > 0:
                    self.faults[kind] -= 1
                    return kind
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that left are nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.server.folder / self.path.lstrip("/")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        access = "range" if asked else "whole"
        with self.server.lock:
            self.server.requests[path.name, access] += 1
        fault = self.server.fault(access)
        if not path.is_file() or fault in _STATUS:
            self.send_response(_STATUS.get(fault or "", 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, status = path.read_bytes(), 200
        if asked and fault != "whole":
            begin, end = int(asked[1]), int(asked[2]) + 1
            shift = 1 if fault == "shift" else 0
            data, status = data[begin + shift : end + shift], 206
        if fault == "flip" and path.suffix == ".safetensors":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]
        self.send_response(status)
        if self.server.tagged:
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.server.bodies[path.name] += status == 200
            self.wfile.write(data[: len(data) // 2])
            if fault == "stall":
                time.sleep(1)
            self.wfile.write(b"" if fault == "drop" else data[len(data) // 2 :])
        if fault == "drop":
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[FaultyServer]:
    """Serve a folder on a free port of this machine."""
    with FaultyServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
