"""Download large files over unreliable connections, from servers that may have changed the file.

The received bytes stay in ``NAME.part``; ``NAME.part.json`` records which version of the file they
belong to. Bytes are appended only if the server confirms that they continue this version at this
position; if the server does not identify versions, the download restarts. A file with unexpected
first bytes is rejected immediately.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
from tqdm.auto import tqdm

from dr_plugins.errors import OutputError
from dr_plugins.mldr.errors import DownloadError

try:
    import requests
    import urllib3
except ImportError as _error:  # pragma: no cover
    raise ImportError("downloading needs requests: pip install 'dr-plugins[remote]'") from _error

_CHUNK = 1 << 14  # lost if the connection breaks: urllib3 1.26 drops an incomplete chunk
_TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
_LONGEST_PAUSE = 60.0
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_logger = logging.getLogger(__name__)


class _AttemptError(Exception):
    """This attempt failed; a retry may succeed. `pause`: seconds to wait, from the server."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


_FAILURES: tuple[type[Exception], ...] = (
    _AttemptError,
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.HTTPError,
)


@dataclass(frozen=True)
class Expected:
    """What is known about a file before the download.

    Attributes:
        start: Its first bytes.
        least: Minimum length in bytes.
        most: Maximum length in bytes.
    """

    start: bytes = b""
    least: int = 0
    most: int = 1 << 63

    def check_start(self, data: bytes, where: str) -> None:
        """Raise unless the data start with the expected bytes.

        Raises:
            DownloadError: They do not.
        """
        if not data.startswith(self.start):
            raise DownloadError(
                f"{where} is not the published file: it starts with {data[:40]!r}, expected "
                f"{self.start!r}. It may be a page of a proxy or a login page."
            )

    def check_length(self, length: int, where: str) -> None:
        """Raise unless the length is within the expected range.

        Raises:
            DownloadError: It is not.
        """
        if not self.least <= length <= self.most:
            raise DownloadError(
                f"{where} has {length:,} bytes, but the published file has {self.least:,} to "
                f"{self.most:,}. This is another file; to get it anyway, use another program."
            )


@dataclass(frozen=True)
class _Job:
    """What to download, and where to put it."""

    url: str
    part: Path
    expected: Expected


@dataclass
class _Version:
    """The version of a file that a part belongs to: its length and the server's validators."""

    total: int
    etag: str | None = None
    modified: str | None = None

    @property
    def validator(self) -> str | None:
        """The value for If-Range; a weak ETag does not guarantee identical bytes."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.modified

    def is_continued_by(self, other: _Version) -> bool:
        """Return whether a part of this version can be continued with bytes of the other."""
        if self.validator is not None and self.validator == self.etag != other.etag:
            return False  # a server that honours If-Range repeats the ETag
        return self.total == other.total and not any(
            mine is not None and theirs is not None and mine != theirs
            for mine, theirs in ((self.etag, other.etag), (self.modified, other.modified))
        )


def download(
    url: str,
    path: Path,
    *,
    expected: Expected | None = None,
    attempts: int = 8,
    progress: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download a file, resuming an earlier attempt if there is one.

    Args:
        url: ``http`` or ``https`` URL.
        path: Where to put the complete file; an existing file is kept.
        expected: What is known about the file; any other file is rejected.
        attempts: Number of attempts without progress before giving up.
        progress: Show a progress bar.
        sleep: Called with the seconds to wait between attempts.

    Returns:
        `path`.

    Raises:
        DownloadError: The server refuses or keeps failing (received bytes are kept), or the file
            is not the expected one.
        OutputError: The file cannot be written.

    Example:
        >>> download(BASE_URL + "cifar100.tar.gz", Path("cifar100.tar.gz"))   # doctest: +SKIP
    """
    expected = expected or Expected()
    part = path.with_name(f"{path.name}.part")
    try:
        if path.exists():
            _check_file(path, expected)
            _logger.info("%s already exists", path)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part), requests.Session() as session, _bar(path, progress) as bar:
            _fetch(session, _Job(url, part, expected), attempts, sleep, bar)
            _check_file(part, expected)
            _state(part).unlink(missing_ok=True)
            os.replace(part, path)
    except requests.RequestException as error:
        raise DownloadError(f"cannot download {url}: {error}") from error
    except OSError as error:
        raise OutputError(f"cannot write {error.filename or part}: {error.strerror}") from error
    return path


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    lock = filelock.FileLock(part.with_name(f"{part.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise DownloadError(f"another process is downloading {part}; wait for it") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while we hold the lock
        lock.release()


def _check_file(path: Path, expected: Expected) -> None:
    try:
        with open(path, "rb") as file:
            expected.check_start(file.read(len(expected.start) + 40), str(path))
        expected.check_length(path.stat().st_size, str(path))
    except DownloadError as error:
        raise DownloadError(f"{error} Delete {path}, then run the same command again.") from error


def _bar(path: Path, progress: bool) -> Any:
    return tqdm(desc=path.name, unit="B", unit_scale=True, disable=not progress)


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _fetch(
    session: requests.Session,
    job: _Job,
    attempts: int,
    sleep: Callable[[float], None],
    bar: Any,
) -> None:
    failures, part = 0, job.part
    while True:
        before = _size(part)
        try:
            _attempt(session, job, bar)
            return
        except _FAILURES as error:
            reason, retry_after = error, getattr(error, "pause", 0.0)
        failures = 1 if _size(part) > before else failures + 1
        if failures >= attempts:
            raise DownloadError(
                f"gave up on {job.url} after {attempts} attempts without progress ({reason}); "
                f"{_size(part):,} bytes are kept in {part}. Run the same command to resume."
            ) from reason
        pause = max(retry_after, min(2.0 ** (failures - 1), _LONGEST_PAUSE))
        pause *= random.uniform(0.75, 1.25)
        _logger.warning("%s; retrying in %.0f s", reason, pause)
        sleep(pause)


def _attempt(session: requests.Session, job: _Job, bar: Any) -> None:
    """Make one request; return only when the file is complete."""
    url, part = job.url, job.part
    known = _load_version(part)
    have = _size(part)
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges refer to the file itself
    if known is not None and have and known.validator is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416:
            if known is not None and have == known.total:
                return
            _discard(part)
            raise _AttemptError(f"the server has no bytes from {have:,} on")
        if response.status_code == 206 and "Range" in headers:
            assert known is not None
            version = _continued(response, part, known, have)
        else:
            version, have = _whole(response, url), 0
            job.expected.check_length(version.total, url)
            _save_version(part, version)
        bar.total = version.total
        bar.n = have
        bar.refresh()
        _receive(response, job, have, version, bar)


def _whole(response: requests.Response, url: str) -> _Version:
    """Return the version of a response that starts at the first byte."""
    code = response.status_code
    if code in _TEMPORARY:
        raise _AttemptError(f"the server answers {code} {response.reason}", _retry_after(response))
    if code != 200:
        raise DownloadError(f"the server answers {code} {response.reason} for {url}")
    length = response.headers.get("Content-Length", "")
    if not length.isdigit():
        raise DownloadError(f"the server does not state how long {url} is; use another program")
    return _version_of(response, int(length))


def _continued(response: requests.Response, part: Path, known: _Version, have: int) -> _Version:
    """Return the version of a response that continues a part; discard the part on a mismatch."""
    stated = response.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(stated)
    if found is None or int(found[1]) != have:
        _discard(part)
        raise _AttemptError(f"requested bytes from {have:,} on, but the server sends {stated!r}")
    version = _version_of(response, int(found[3]))
    if not known.is_continued_by(version):
        _discard(part)
        raise _AttemptError("the file has changed on the server; restarting")
    return version


def _version_of(response: requests.Response, total: int) -> _Version:
    headers = response.headers
    return _Version(total, headers.get("ETag"), headers.get("Last-Modified"))


def _retry_after(response: requests.Response) -> float:
    retry_after = response.headers.get("Retry-After", "")
    return min(float(retry_after), 10 * _LONGEST_PAUSE) if retry_after.isdigit() else 0.0


def _receive(
    response: requests.Response, job: _Job, have: int, version: _Version, bar: Any
) -> None:
    part = job.part
    with open(part, "r+b" if part.exists() else "wb") as file:
        file.truncate(have)
        file.seek(have)
        # Raw: some servers declare a .gz file as encoded, and it would be decompressed.
        for chunk in response.raw.stream(_CHUNK, decode_content=False):
            if have == 0:
                _check_first(chunk, job)
            have += len(chunk)
            if have > version.total:
                break
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if have > version.total:
        _discard(part)
        raise _AttemptError(f"the server sends more than the {version.total:,} bytes it announced")
    if have < version.total:
        raise _AttemptError(f"the connection ended after {have:,} of {version.total:,} bytes")


def _check_first(chunk: bytes, job: _Job) -> None:
    try:
        job.expected.check_start(chunk, job.url)
    except DownloadError:
        _discard(job.part)
        raise


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def _save_version(part: Path, version: _Version) -> None:
    part.unlink(missing_ok=True)  # first: a part must never exist with another version's JSON file
    _state(part).write_text(json.dumps(asdict(version)), encoding="utf-8")


def _load_version(part: Path) -> _Version | None:
    try:
        return _Version(**json.loads(_state(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
