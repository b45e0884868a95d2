"""Makes the pictures of ``docs/explore.md``: ``python -m docs.site.make_explore_figures``.

Takes some minutes, and needs Chromium on the path. The set is that of `make_figures`.
"""

from __future__ import annotations

import queue
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from docs.site.make_figures import FIGURES, reinforced
from dr_plugins.explorer import Catalog, serve
from dr_plugins.pictures import StoredPictures
from dr_plugins.statistics import open_statistics

PER_CLASS = 100
WIDE, NARROW = (1360, 900), (390, 844)
DOUBTFUL = "sort=label_prob"


def main() -> None:
    """Serve the page of some of Fashion-MNIST, and take its pictures."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        sys.exit("Chromium is not on the path: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        source, shards = reinforced(folder, PER_CLASS)
        catalog = Catalog(shards, open_statistics(shards))
        address = serve_in_background(catalog, StoredPictures(source, shards))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        take_all(browser, address, int(catalog.statistics.label_prob.argmin()))
        browser.close()


def serve_in_background(catalog: Catalog, pictures: StoredPictures) -> str:
    """Return the page's address; the server ends with this process."""
    announced: queue.Queue[str] = queue.Queue()
    options = {"browser": False, "announce": announced.put}
    threading.Thread(target=serve, args=[catalog, pictures], kwargs=options, daemon=True).start()
    return announced.get()


def take_all(browser: Browser, address: str, row: int) -> None:
    """Take the pictures; `row` is the image that is shown with its views."""
    image = f"image/{row}?{DOUBTFUL}&at=0"
    save(take(browser, f"{address}#images?{DOUBTFUL}", WIDE, "light"), "images")
    save(take(browser, f"{address}#{image}", (WIDE[0], 1180), "dark", ".view >> nth=3"), "image")
    save(take(browser, f"{address}#classes", (WIDE[0], 760), "light"), "classes")
    pages = (f"images?{DOUBTFUL}", "light"), (image, "light"), (image, "dark"), ("classes", "dark")
    narrow = [take(browser, f"{address}#{page}", NARROW, scheme) for page, scheme in pages]
    gap = 20
    row_of = Image.new("RGB", (len(narrow) * (NARROW[0] + gap) - gap, NARROW[1]), "#8c959f")
    for place, picture in enumerate(narrow):
        row_of.paste(picture, (place * (NARROW[0] + gap), 0))
    save(row_of, "narrow")


def take(
    browser: Browser, address: str, size: tuple[int, int], scheme: Any, pointed: str | None = None
) -> Image.Image:
    """Take a picture of a page as it looks once everything in sight is loaded."""
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
    )
    page.goto(address)
    page.wait_for_selector("main:not([aria-busy])")
    if pointed is not None:
        page.locator(pointed).hover()
    page.wait_for_load_state("networkidle")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "page.png")
        page.screenshot(path=file)
        picture = Image.open(file).convert("RGB")
    page.close()
    return picture


def save(picture: Image.Image, name: str) -> None:
    """Save with few colours, which halves the file."""
    few = picture.quantize(256, dither=Image.Dither.NONE)
    few.save(FIGURES / f"explore-{name}.png", optimize=True)


if __name__ == "__main__":
    main()
