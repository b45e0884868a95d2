"""The built site: complete, and without requests to other hosts."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("material")
pytest.importorskip("mkdocstrings")

from tests.documents import ROOT

# What a browser fetches by itself; links that a reader follows are free.
FETCHED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}
NOT_FETCHED = {"canonical", "prev", "next", "alternate"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Requests(HTMLParser):
    """Collects the addresses that a browser would fetch with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get(FETCHED.get(tag, ""))
        if address and not (tag == "link" and values.get("rel") in NOT_FETCHED):
            self.found.append(address)


def requests(page: str) -> list[str]:
    """What a browser would fetch with a page."""
    parser = Requests()
    parser.feed(page)
    return parser.found


def test_no_request_leaves_the_site(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        found = requests(page.read_text(encoding="utf-8"))
        assert found
        assert [address for address in found if urlsplit(address).netloc] == [], page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", text), sheet


def test_a_foreign_request_is_noticed() -> None:
    page = '<script src="https://a.example/x.js"></script><a href="https://b.example">b</a>'
    assert requests(page) == ["https://a.example/x.js"]


def test_every_public_name_has_an_entry(site: Path) -> None:
    from tests.test_public_api import PAGE

    for package, names in PAGE.items():
        text = (site / "reference" / package / "index.html").read_text(encoding="utf-8")
        assert {name for name in names if f'id="{package}.{name}"' not in text} == set()


def test_search_answers_without_other_hosts(site: Path) -> None:
    chromium = shutil.which("chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, asked = f"http://127.0.0.1:{server.server_port}", list[str]()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/?q=fingerprint")
        page.locator(".md-search-result__link").first.wait_for(state="attached")
        found = page.locator(".md-search-result__list").text_content() or ""
        browser.close()
    server.shutdown()
    assert "fingerprint" in found.lower()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
