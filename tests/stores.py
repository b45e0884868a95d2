"""Stores to which tests can write: S3's interface by moto, and a stand-in for the Hub's."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests


@contextlib.contextmanager
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server with S3's interface, to which ``s3://`` leads; yields its file system."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "any")
        requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)  # from servers before
        s3fs.S3FileSystem.clear_instance_cache()
        yield s3fs.S3FileSystem()
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


class Hub(ThreadingHTTPServer):
    """One dataset repository with those answers of the Hub that are needed here.

    Attributes:
        files: Content of the repository.
        commits: Names of the files of each commit.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.files: dict[str, bytes] = {}
        self.commits: list[list[str]] = []
        self.uploads: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _HubHandler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        name = path.rpartition("/resolve/")[2].partition("/")[2]
        if "/tree/" in path:
            self._answer([self._info(name) for name in self.server.files])
        elif "/resolve/" in path and name in self.server.files:
            data = self.server.files[name]
            asked = self.headers.get("Range")
            if asked:
                begin, end = asked.removeprefix("bytes=").split("-")
                data = data[int(begin) : int(end or len(data)) + 1]
            self._answer(data, 206 if asked else 200, ETag=f'"{_sha(self.server.files[name])}"',
                         **{"X-Repo-Commit": "0" * 40})  # fmt: skip
        elif path.startswith("/api/datasets/some/plus"):
            self._answer({"id": "some/plus", "sha": "0" * 40, "siblings": [], "private": False,
                          "downloads": 0, "likes": 0, "tags": []})  # fmt: skip
        else:
            self._answer({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            self._answer({"url": f"{self.server.address}/datasets/some/plus"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            kind = {True: "lfs", False: "regular"}
            self._answer({"files": [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": kind[f["path"].endswith((".safetensors", ".parquet"))]}
                for f in files
            ]})  # fmt: skip
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            self._answer({"transfer": "basic", "objects": [
                {**o, "actions": {"upload": {"href": f"{self.server.address}/lfs/{o['oid']}"}}}
                for o in objects
            ]})  # fmt: skip
        elif "/paths-info/" in path:
            names = json.loads(body)["paths"] if body.startswith(b"{") else []
            self._answer([self._info(name) for name in names if name in self.server.files])
        elif "/commit/" in path:
            self._commit([json.loads(line) for line in body.splitlines() if line])
        else:
            self._answer({"error": path}, 404)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.uploads[self.path.rpartition("/")[2]] = data
        self._answer({})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        names = []
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
                names.append(value["path"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.uploads[value["oid"]]
                names.append(value["path"])
        self.server.commits.append(names)
        self._answer(
            {
                "commitOid": "0" * 40,
                "commitUrl": f"{self.server.address}/datasets/some/plus/commit/{40 * chr(48)}",
            }
        )

    def _info(self, name: str) -> dict[str, Any]:
        data = self.server.files[name]
        info = {"type": "file", "path": name, "size": len(data), "oid": _sha(data)[:40]}
        if name.endswith((".safetensors", ".parquet")):
            info["lfs"] = {"oid": _sha(data), "size": len(data), "pointerSize": 130}
        return info

    def _answer(self, content: Any, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in for the Hub, to which ``hf://`` leads."""
    constants = pytest.importorskip("huggingface_hub.constants")
    files = pytest.importorskip("huggingface_hub").HfFileSystem
    with Hub() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            monkeypatch.setattr(constants, "ENDPOINT", server.address)
            monkeypatch.setattr(
                constants,
                "HUGGINGFACE_CO_URL_TEMPLATE",
                server.address + "/{repo_id}/resolve/{revision}/{filename}",
            )
            monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
            monkeypatch.setenv("HF_TOKEN", "hf_any")
            files.clear_instance_cache()
            yield server
        finally:
            files.clear_instance_cache()
            server.shutdown()


@contextlib.contextmanager
def on_the_hub(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Iterator[str]:
    """The address of a shard set on a stand-in for the Hub, read into a cache next to it."""
    monkeypatch.setenv("DR_PLUGINS_CACHE", str(directory.with_name("cache")))
    with hub(monkeypatch) as server:
        server.files.update({file.name: file.read_bytes() for file in directory.glob("*.*")})
        yield "hf://datasets/some/plus"
