"""A set whose files and classes have hostile names, its page on a server, and a browser."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dr_plugins.explorer import Catalog
from dr_plugins.images.sources import open_source
from dr_plugins.pictures import StoredPictures
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import open_statistics
from tests.tiny import TinyTeacher, make_set, photograph

TOKEN = "the-token"
SAMPLES = 5
CLASSES = ("<b>bold", "a&b", "plain", "ü'\"")
HOSTILE = "<img src=x onerror=document.title='hacked'>.jpg"


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of four classes; no file system allows a slash in a name."""
    root = tmp_path_factory.mktemp("explored") / "train"
    for c, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(20):
            file = HOSTILE if (c, i) == (0, 3) else f"{c}-{i:02d}.jpg"
            photograph(100 * c + i, 60 + i, 80 - i).save(root / name / file)
    return root


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, images: Path) -> ShardSet:
    out = tmp_path_factory.mktemp("sets") / "explored-plus"
    teacher = TinyTeacher(len(CLASSES))
    return ShardSet(
        make_set(out, open_source(str(images)), samples=SAMPLES, topk=3, teacher=teacher)
    )


@pytest.fixture(scope="session")
def catalog(shards: ShardSet) -> Catalog:
    return Catalog(shards, open_statistics(shards))


@pytest.fixture(scope="session")
def pictures(shards: ShardSet, images: Path) -> StoredPictures:
    return StoredPictures(open_source(str(images)), shards)


@contextmanager
def serving(catalog: Catalog, pictures: StoredPictures | None) -> Iterator[str]:
    """The address of the page, served by a thread."""
    uvicorn = pytest.importorskip("uvicorn")
    from dr_plugins.explorer.server import build_app

    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = build_app(catalog, pictures, TOKEN)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/{TOKEN}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def address(catalog: Catalog, pictures: StoredPictures) -> Iterator[str]:
    with serving(catalog, pictures) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window; tests that need it are skipped where there is none.

    While it is open, nothing else can use an event loop in this thread, so other modules' tests
    come after it.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if path is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        # The sandbox refuses to run as root, as which containers test.
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address in a new tab, and checks in the end that nothing went wrong in any.

    Where requests are meant to fail, pass `failing`.
    """
    contexts, problems, foreign = [], [], []

    def get(address: str, *, failing: bool = False, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        if not failing:
            page.on("console", lambda m: m.type == "error" and problems.append(m.text))
        origin = address.split("/")[:3]
        page.on("request", lambda r: r.url.split("/")[:3] != origin and foreign.append(r.url))
        page.goto(address)
        page.wait_for_selector("main:not([aria-busy])")
        return page

    yield get
    for context in contexts:
        context.close()
    assert not problems
    assert not foreign
