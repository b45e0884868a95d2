"""Downloads from a server on this machine that drops connections, lies about ranges and changes."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

pytest.importorskip("requests")

from dr_plugins.mldr.download import Expected, download
from dr_plugins.mldr.errors import DownloadError
from dr_plugins.mldr.published import BASE_URL, PUBLISHED, find_published

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
Behaviour = Callable[["Request"], None]


@dataclass
class Request:
    """One request, and what can be done about it."""

    handler: BaseHTTPRequestHandler
    start: int | None
    if_range: str | None

    def answer(self, code: int, headers: dict[str, Any], body: bytes = b"") -> None:
        self.handler.send_response(code)
        for name, value in headers.items():
            self.handler.send_header(name, str(value))
        self.handler.end_headers()
        self.handler.wfile.write(body)

    def serve(
        self, content: bytes = CONTENT, etag: str = '"1"', cut: int | None = None, shift: int = 0
    ) -> None:
        """Answer as a good server does; `cut` drops the connection after so many bytes."""
        length = len(content)
        if self.start is None or (self.if_range is not None and self.if_range != etag):
            self.answer(200, {"Content-Length": length, "ETag": etag}, content[:cut])
        elif self.start >= length:
            self.answer(416, {"Content-Range": f"bytes */{length}", "Content-Length": 0})
        else:
            first = self.start + shift
            stated = f"bytes {first}-{length - 1}/{length}"
            headers = {"Content-Length": length - first, "Content-Range": stated, "ETag": etag}
            self.answer(206, headers, content[first:][:cut])


@dataclass
class Server:
    """Behaves as told for each request in turn, and well from then on."""

    url: str = ""
    script: list[Behaviour] = field(default_factory=list)
    starts: list[int | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # so that the end of an answer closes the connection

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            start = None if wanted is None else int(wanted.removeprefix("bytes=").rstrip("-"))
            state.starts.append(start)
            behave = state.script.pop(0) if state.script else Request.serve
            behave(Request(self, start, self.headers.get("If-Range")))

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_port}/archive.tar.gz"
        yield state
        running.shutdown()
        thread.join()


class Fetch:
    """Downloads to a directory without waiting between attempts."""

    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path = url, path
        self.part = path.with_name(f"{path.name}.part")
        self.pauses: list[float] = []
        self.expected: Expected | None = None

    def __call__(self, attempts: int = 4) -> bytes:
        sleep = self.pauses.append
        download(self.url, self.path, expected=self.expected, attempts=attempts, sleep=sleep)
        assert [p.name for p in self.path.parent.iterdir()] == [self.path.name]
        return self.path.read_bytes()


@pytest.fixture
def fetch(server: Server, tmp_path: Path) -> Fetch:
    return Fetch(server.url, tmp_path / "archives" / "archive.tar.gz")


def test_a_good_server(server: Server, fetch: Fetch) -> None:
    assert fetch() == CONTENT
    assert server.starts == [None]
    assert fetch() == CONTENT  # it is there: not asked for again
    assert len(server.starts) == 1


def test_dropped_connections(server: Server, fetch: Fetch) -> None:
    # At least whole chunks of 16 KiB are kept; newer versions of urllib3 lose no byte.
    server.script = [lambda r, n=n: r.serve(cut=n) for n in (98_304, 65_536, 1, 0, 99_999)]
    assert fetch() == CONTENT
    assert server.starts[:3] == [None, 98_304, 163_840]
    kept = [start for start in server.starts if start is not None]
    assert kept == sorted(kept)
    assert 262_144 <= kept[-1] <= 263_840
    assert len(fetch.pauses) == 5


def test_an_interrupted_download_goes_on_later(server: Server, fetch: Fetch) -> None:
    server.script = [lambda r: r.serve(cut=65_536)] + [lambda r: r.serve(cut=0)] * 2
    with pytest.raises(DownloadError, match="65,536 bytes are kept"):
        fetch(attempts=3)
    assert fetch.part.read_bytes() == CONTENT[:65_536]
    assert fetch() == CONTENT
    assert server.starts[-1] == 65_536


def test_ranges_are_ignored(server: Server, fetch: Fetch) -> None:
    def ignores(request: Request, cut: int | None = None) -> None:
        request.start = None
        request.serve(cut=cut)

    server.script = [lambda r: ignores(r, 81_920), ignores]
    assert fetch() == CONTENT


@pytest.mark.parametrize("shift", [-1000, 1000])
def test_a_wrong_content_range_is_not_appended(server: Server, fetch: Fetch, shift: int) -> None:
    server.script = [lambda r: r.serve(cut=81_920), lambda r: r.serve(shift=shift)]
    assert fetch() == CONTENT
    assert server.starts == [None, 81_920, None]


@pytest.mark.parametrize("stated", [None, "bytes */300000", "items 81920-299999/300000", "x" * 99])
def test_a_partial_answer_that_does_not_say_where(
    server: Server, fetch: Fetch, stated: str | None
) -> None:
    def answer(request: Request) -> None:
        headers = {} if stated is None else {"Content-Range": stated}
        request.answer(206, {**headers, "Content-Length": 218_080}, OTHER[81_920:])

    server.script = [lambda r: r.serve(cut=81_920), answer]
    assert fetch() == CONTENT


def test_a_changed_file_is_fetched_from_its_start(server: Server, fetch: Fetch) -> None:
    server.script = [lambda r: r.serve(CONTENT, '"1"', 81_920), lambda r: r.serve(OTHER, '"2"')]
    assert fetch() == OTHER
    assert server.starts == [None, 81_920]  # If-Range: the server sends all of the new one


def test_a_changed_file_on_a_server_without_if_range(server: Server, fetch: Fetch) -> None:
    def changed(request: Request) -> None:
        request.if_range = None
        request.serve(OTHER, '"2"')

    server.script = [lambda r: r.serve(cut=81_920), changed, lambda r: r.serve(OTHER, '"2"')]
    assert fetch() == OTHER
    assert server.starts == [None, 81_920, None]


def test_a_changed_length_is_noticed_without_etag(server: Server, fetch: Fetch) -> None:
    def plain(content: bytes, cut: int | None = None) -> Behaviour:
        def answer(request: Request) -> None:
            start, length = request.start or 0, len(content)
            headers: dict[str, Any] = {"Content-Length": length - start}
            if request.start is not None:
                headers["Content-Range"] = f"bytes {start}-{length - 1}/{length}"
            request.answer(206 if request.start else 200, headers, content[start:][:cut])

        return answer

    longer = OTHER + b"more"
    server.script = [plain(CONTENT, 81_920), plain(longer), plain(longer)]
    assert fetch() == longer


def test_a_weak_etag_is_not_a_promise(server: Server, fetch: Fetch) -> None:
    seen: list[str | None] = []

    def weak(request: Request) -> None:
        seen.append(request.if_range)
        request.if_range = None
        request.serve(etag='W/"1"', cut=81_920 if len(seen) == 1 else None)

    server.script = [weak, weak]
    assert fetch() == CONTENT
    assert seen == [None, None]
    assert server.starts == [None, None]  # so nothing is continued


def test_too_short_is_not_taken_for_all(server: Server, fetch: Fetch) -> None:
    server.script = [lambda r: r.serve(cut=len(CONTENT) - 1)] * 3
    assert fetch() == CONTENT


def test_too_long_is_not_taken_for_all(server: Server, fetch: Fetch) -> None:
    def more(request: Request) -> None:
        start = request.start or 0
        headers = {"Content-Length": 300_000, "ETag": '"1"'}
        headers["Content-Range"] = f"bytes {start}-299999/300000"
        request.answer(206, headers, CONTENT[start:] + b"x" * start)

    server.script = [lambda r: r.serve(cut=81_920), more]
    assert fetch() == CONTENT
    assert server.starts == [None, 81_920, None]


def test_the_last_byte_was_there_already(server: Server, fetch: Fetch) -> None:
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT)
    state = {"total": len(CONTENT), "etag": '"1"', "modified": None}
    fetch.part.with_name(f"{fetch.part.name}.json").write_text(json.dumps(state))
    assert fetch() == CONTENT
    assert server.starts == [len(CONTENT)]


def test_416_for_another_reason_starts_again(server: Server, fetch: Fetch) -> None:
    refuses = lambda r: r.answer(416, {"Content-Length": 0})  # noqa: E731
    server.script = [lambda r: r.serve(cut=81_920), refuses]
    assert fetch() == CONTENT
    assert server.starts == [None, 81_920, None]


@pytest.mark.parametrize("state", ["", "{", "[]", '{"total": 300000, "who": 1}'])
def test_a_part_of_unknown_origin_is_not_used(server: Server, fetch: Fetch, state: str) -> None:
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(OTHER[:1000])
    if state:
        fetch.part.with_name(f"{fetch.part.name}.json").write_text(state)
    assert fetch() == CONTENT
    assert server.starts == [None]


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, fetch: Fetch, code: int) -> None:
    busy = lambda r: r.answer(code, {"Content-Length": 0, "Retry-After": 40})  # noqa: E731
    server.script = [busy, busy]
    assert fetch() == CONTENT
    assert len(fetch.pauses) == 2
    assert all(30 <= pause <= 50 for pause in fetch.pauses)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_is_final(server: Server, fetch: Fetch, code: int) -> None:
    server.script = [lambda r: r.answer(code, {"Content-Length": 0})]
    with pytest.raises(DownloadError, match=f"answers {code}"):
        fetch()
    assert len(server.starts) == 1


def test_pauses_grow(server: Server, fetch: Fetch) -> None:
    server.script = [lambda r: r.answer(503, {"Content-Length": 0})] * 9
    with pytest.raises(DownloadError, match="gave up"):
        fetch(attempts=9)
    for pause, expected in zip(fetch.pauses, [1, 2, 4, 8, 16, 32, 60, 60], strict=True):
        assert 0.75 * expected <= pause <= 1.25 * expected


def test_an_unknown_length_is_refused(server: Server, fetch: Fetch) -> None:
    server.script = [lambda r: r.answer(200, {}, CONTENT)]
    with pytest.raises(DownloadError, match="how long"):
        fetch()


@pytest.mark.parametrize("etag", [None, '"2"', 'W/"1"'])
def test_a_part_of_another_version_is_not_appended(
    server: Server, fetch: Fetch, etag: str | None
) -> None:
    """By a server that ignores If-Range: same length, another ETag or none."""

    def other(request: Request) -> None:
        start = request.start or 0
        headers: dict[str, Any] = {"Content-Length": len(OTHER) - start}
        headers["Content-Range"] = f"bytes {start}-{len(OTHER) - 1}/{len(OTHER)}"
        request.answer(206, headers if etag is None else {**headers, "ETag": etag}, OTHER[start:])

    server.script = [lambda r: r.serve(cut=81_920), other]
    assert fetch() == CONTENT
    assert server.starts == [None, 81_920, None]


def test_without_validators_nothing_is_continued(server: Server, fetch: Fetch) -> None:
    def plain(request: Request, cut: int | None = None) -> None:
        request.answer(200, {"Content-Length": len(CONTENT)}, CONTENT[:cut])

    server.script = [lambda r: plain(r, 81_920), plain]
    assert fetch() == CONTENT
    assert server.starts == [None, None]


def test_the_date_of_a_change_continues_a_part(server: Server, fetch: Fetch) -> None:
    seen: list[str | None] = []
    date = "Sat, 01 Jul 2023 10:00:00 GMT"

    def dated(request: Request) -> None:
        seen.append(request.if_range)
        start = request.start or 0
        headers: dict[str, Any] = {"Content-Length": len(CONTENT) - start, "Last-Modified": date}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        body = CONTENT[start:] if start else CONTENT[:81_920]
        request.answer(206 if start else 200, headers, body)

    server.script = [dated, dated]
    assert fetch() == CONTENT
    assert seen == [None, date]


@pytest.mark.parametrize("page", [b"<html>Please log in</html>" * 20_000, b"", b"\x1f"])
def test_what_is_no_archive_is_not_kept(server: Server, fetch: Fetch, page: bytes) -> None:
    fetch.expected = Expected(b"\x1f\x8b")
    server.script = [lambda r: r.serve(page)]
    with pytest.raises(DownloadError, match="not the published file"):
        fetch()
    assert not fetch.path.exists()
    good = b"\x1f\x8b" + CONTENT
    server.script = [lambda r: r.serve(good, '"2"')]
    for left in fetch.path.parent.glob("*.part"):
        left.unlink()
    assert fetch() == good


@pytest.mark.parametrize("lengths", [(0, 299_999), (300_001, 400_000)])
def test_another_length_is_refused_before_it_is_fetched(
    server: Server, fetch: Fetch, lengths: tuple[int, int]
) -> None:
    fetch.expected = Expected(b"", *lengths)
    with pytest.raises(DownloadError, match="300,000 bytes"):
        fetch()
    assert not fetch.path.exists()
    assert not fetch.part.exists()


def test_an_existing_file_is_looked_at(server: Server, fetch: Fetch) -> None:
    fetch.path.parent.mkdir()
    fetch.path.write_bytes(b"<html>")
    fetch.expected = Expected(b"\x1f\x8b")
    with pytest.raises(DownloadError, match="Delete"):
        fetch()
    assert fetch.path.read_bytes() == b"<html>"
    assert server.starts == []


def test_what_a_server_calls_encoded_is_kept_as_it_is(server: Server, fetch: Fetch) -> None:
    """Apache does so with .gz files."""
    zipped = gzip.compress(CONTENT)
    headers = {"Content-Length": len(zipped), "Content-Encoding": "x-gzip"}
    server.script = [lambda r: r.answer(200, headers, zipped)]
    assert fetch() == zipped


def test_one_process_at_a_time(server: Server, fetch: Fetch) -> None:
    fetch.part.parent.mkdir()
    lock = fetch.part.with_name(f"{fetch.part.name}.lock")
    with filelock.FileLock(lock):
        for _ in range(2):  # the first refusal leaves the lock in place
            with pytest.raises(DownloadError, match="another process"):
                fetch()
    assert fetch() == CONTENT


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="gave up"):
        download("http://127.0.0.1:9/a", tmp_path / "a", attempts=2, sleep=lambda seconds: None)


def test_the_table_of_published_archives() -> None:
    assert len(PUBLISHED) == 15
    assert len({published.name for published in PUBLISHED}) == 15
    assert BASE_URL + find_published("randaug").file == (
        "https://docs-assets.developer.apple.com/ml-research/datasets/dr/"
        "imagenet_plus_randaug.tar.gz"
    )
    mini = find_published("mixing-randaug-mini")
    assert mini.file == find_published("mixing-randaug").file
    assert "53.3 GB" in mini.note
    least, most = mini.lengths
    assert least < 53.3e9 < 53.3 * 2**30 < most
    assert all(one.lengths[0] < one.lengths[1] < 1.2 * one.lengths[0] for one in PUBLISHED[:-1])
    with pytest.raises(DownloadError, match="rrc-mini"):
        find_published("imagenet")
