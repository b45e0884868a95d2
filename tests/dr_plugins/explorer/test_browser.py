"""The page in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dr_plugins.explorer import Catalog
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.pictures import StoredPictures
from dr_plugins.records import RecordLayout
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import FileEntry, Manifest, settings_digest
from dr_plugins.shards.reader import ShardSet
from dr_plugins.shards.shard import Shard, shard_name
from dr_plugins.statistics import open_statistics
from tests.dr_plugins.explorer.conftest import CLASSES, HOSTILE, SAMPLES, serving
from tests.tiny import TinyTeacher, make_set, photograph

expect = pytest.importorskip("playwright.sync_api").expect
OpenPage = Callable[..., Any]


def keys_of(page: Any) -> list[str]:
    return [card.get_attribute("title") for card in page.locator(".card").all()]


def test_filter_and_sort(open_page: OpenPage, address: str, catalog: Catalog) -> None:
    page = open_page(address)
    expect(page.get_by_role("status")).to_contain_text("1–48 of 80 images")
    page.get_by_label("Label", exact=True).select_option("2")
    expect(page.get_by_role("status")).to_contain_text("of 20 images")
    page.get_by_label("Sort by").select_option("entropy")
    page.get_by_label("Order").select_option("descending")
    entropy = catalog.statistics.entropy
    order = np.argsort(-entropy[40:60], kind="stable") + 40
    expect(page.locator(".card").first).to_have_attribute("title", catalog.shards.keys[order[0]])
    assert keys_of(page) == [catalog.shards.keys[row] for row in order]
    bound = float(np.median(entropy[40:60]))
    page.get_by_label("Entropy, at least").fill(str(bound))
    expect(page.get_by_role("status")).to_contain_text(f"of {(entropy[40:60] >= bound).sum()} ")
    page.reload()  # the address holds all of it
    expect(page.get_by_label("Entropy, at least")).to_have_value(str(bound))
    expect(page.get_by_role("status")).to_contain_text(f"of {(entropy[40:60] >= bound).sum()} ")
    page.get_by_role("button", name="Clear all").click()
    expect(page.get_by_role("status")).to_contain_text("of 80 images")
    page.get_by_label("File name contains").fill("no such name")
    expect(page.get_by_role("status")).to_contain_text("No image")


def test_a_bar_of_the_histogram_is_a_filter(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    bar = page.locator("[data-name=confidence] .hit:has(title:not(:text(': 0 images')))").last
    wanted = bar.locator("title").text_content().split(": ")[1].split(" ")[0]
    bar.click()
    expect(page.get_by_role("status")).to_contain_text(f"of {wanted} image")


def test_an_image(open_page: OpenPage, address: str, catalog: Catalog) -> None:
    page = open_page(address)
    page.locator(".card").nth(7).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(catalog.shards.keys[7])
    expect(page.locator(".view")).to_have_count(SAMPLES)
    page.locator(".view").last.scroll_into_view_if_needed()
    for picture in page.locator("main img").all():
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("image => image.naturalWidth") > 0
    expect(page.locator(".crops polygon")).to_have_count(SAMPLES)
    page.locator(".view").nth(2).hover()
    expect(page.locator(".crops .pointed")).to_have_attribute("data-view", "2")
    page.locator(".strip svg").first.locator("rect").nth(3).hover()
    expect(page.locator(".crops .pointed")).to_have_attribute("data-view", "3")
    page.get_by_label("Sort by").select_option("confidence")
    first = min(catalog.image(7)["views"], key=lambda view: view["top"][0][1])
    number = catalog.image(7)["views"].index(first)
    expect(page.locator(".view b").first).to_have_text(f"#{number}")


def test_the_keyboard_is_enough(open_page: OpenPage, address: str, catalog: Catalog) -> None:
    page = open_page(address)
    key, keys = page.keyboard.press, catalog.shards.keys
    key("n")
    expect(page.get_by_role("status")).to_contain_text("49–80 of 80")
    expect(page.locator(".card").first).to_be_focused()
    key("p")
    expect(page.get_by_role("status")).to_contain_text("1–48")
    key("ArrowRight")
    key("ArrowDown")
    columns = page.locator("#grid").evaluate(
        "grid => getComputedStyle(grid).gridTemplateColumns.split(' ').length"
    )
    expect(page.locator(".card").nth(columns + 1)).to_be_focused()
    key("Enter")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text(keys[columns + 1])
    expect(page.get_by_role("link", name="Next")).to_be_visible()
    key("ArrowRight")
    expect(heading).to_have_text(keys[columns + 2])
    key("Escape")
    expect(page.locator(".card")).to_have_count(48)
    key("/")
    page.keyboard.type("2-1?13")  # letters and signs are no commands here
    expect(page.get_by_label("File name contains")).to_have_value("2-1?13")
    key("Escape")
    key("2")
    expect(heading).to_have_text("Classes")
    key("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    key("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    key("3")
    expect(heading).to_have_text("About this set")


def test_names_are_text(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}#images?search=onerror")
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator(".card .label")).to_have_text("<b>bold")
    page.locator(".card").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"<b>bold/{HOSTILE}")
    for tab in ("Classes", "About"):
        page.get_by_role("link", name=tab).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(tab)
        assert page.locator("[onerror], main b").count() == 0
    page.get_by_role("link", name="Classes").click()
    expect(page.locator(".classes tbody th")).to_have_count(len(CLASSES))
    assert set(CLASSES) <= set(page.locator(".classes tbody th").all_text_contents())
    assert "hacked" not in page.title()


def test_the_classes(open_page: OpenPage, address: str, catalog: Catalog) -> None:
    page = open_page(f"{address}#classes")
    statistics = catalog.statistics
    counts = np.zeros((4, 4), int)
    np.add.at(counts, (statistics.label, statistics.top_classes[:, 0]), 1)
    cells = page.locator(".matrix tbody td").all_text_contents()
    assert [int(cell or 0) for cell in cells] == counts.ravel().tolist()
    label, other = np.argwhere((counts > 0) & ~np.eye(4, dtype=bool))[0].tolist()
    page.locator(".matrix tbody tr").nth(label).locator("td").nth(other).get_by_role("link").click()
    expect(page.get_by_role("status")).to_contain_text(f"of {counts[label, other]} image")
    page.go_back()
    page.get_by_role("button", name="Agreement").click()
    means = [statistics.agreement[statistics.label == c].mean() for c in range(4)]
    names = catalog.class_names
    expect(page.locator(".classes tbody th").first).to_have_text(names[int(np.argmin(means))])


def test_the_reason_stands_in_place_of_a_picture(
    open_page: OpenPage, catalog: Catalog, images: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(images, tmp_path / "train")
    (copied / catalog.shards.keys[1]).write_bytes(b"no image")
    photograph(0, 9, 9).save(copied / catalog.shards.keys[2])
    (copied / catalog.shards.keys[4]).unlink()
    pictures = StoredPictures(open_source(str(copied)), catalog.shards)
    with serving(catalog, pictures) as address:
        page = open_page(address, failing=True)
        for row, reason in ((1, "cannot"), (2, "9x9"), (4, "not among")):
            expect(page.locator(".card").nth(row).locator(".missing")).to_contain_text(reason)
        expect(page.locator(".card").nth(3).locator("img")).to_be_visible()
        page.locator(".card").nth(1).click()
        expect(page.locator(".original .missing")).to_contain_text("cannot")
        expect(page.locator(".view .missing")).to_have_count(SAMPLES)
        expect(page.locator(".bars").first).to_be_visible()


class Unlabelled:
    """Every ninth image of a source, without its label."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return -(-len(self.source) // 9)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.source.load(9 * index)[0], -1


def test_a_set_without_labels(open_page: OpenPage, images: Path, tmp_path: Path) -> None:
    labelled = open_source(str(images))
    source = ImageSource(Unlabelled(labelled), labelled.keys[::9])
    make_set(tmp_path / "set", source, samples=2, teacher=TinyTeacher(5))
    shards = ShardSet(tmp_path / "set")
    catalog = Catalog(shards, open_statistics(shards))
    with serving(catalog, StoredPictures(source, shards)) as address:
        page = open_page(address)
        expect(page.locator(".card .label").first).to_have_text("no label")
        page.get_by_label("Sort by").select_option("agreement")
        expect(page.get_by_role("status")).to_contain_text(f"{len(shards)} images")
        page.get_by_label("Agreement, at least").fill("0")
        expect(page.get_by_role("status")).to_contain_text("No image")
        page.goto(f"{address}#image/0")
        expect(page.locator(".verdict")).to_contain_text("unknown")
        page.goto(f"{address}#classes")
        expect(page.locator("main")).to_contain_text("No image has a label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1600])
def test_any_screen(open_page: OpenPage, address: str, scheme: str, width: int) -> None:
    page = open_page(address, viewport={"width": width, "height": 700}, color_scheme=scheme)
    for part, shown in (("images", ".card"), ("image/3", ".view"), ("classes", ".matrix")):
        page.goto(f"{address}#{part}")
        page.wait_for_selector(shown)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    channels = [int(channel) for channel in colour.strip("rgb()").split(",")]
    assert (max(channels) < 64) == (scheme == "dark")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, shards: ShardSet) -> Catalog:
    """A set of 100,000 images with one view each."""
    count, out = 100_000, tmp_path_factory.mktemp("many")
    settings = {**shards.manifest.settings, "samples": 1}
    layout = RecordLayout(shards.manifest.layout.fields)
    keys = KeyIndex.build(f"c/{i:06d}.jpg" for i in range(count))
    shard = Shard.empty(0, count, 1, layout)
    probs = np.random.default_rng(0).dirichlet(np.ones(4), count)
    order = np.argsort(-probs, 1)[:, :3]
    shard.records["ids"][:, 0] = order
    shard.records["probs"][:, 0] = np.take_along_axis(probs, order, 1)
    shard.records["crop"] = (0, 0, 8, 8)
    shard.labels[:] = np.arange(count) % 4
    entry = shard.write(out / shard_name(0), layout, keys, settings_digest(settings))
    index = FileEntry("index.safetensors", keys.save(out / "index.safetensors"), count)
    Manifest(settings, layout, index, (entry,), {}).save(out)
    opened = ShardSet(out)
    return Catalog(opened, open_statistics(opened))


class Squares:
    """As many images as asked for, made when they are loaded."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8), (index % 256, 90, 90)), index % 4


@pytest.fixture(scope="module")
def many_address(many: Catalog) -> Iterator[str]:
    source = ImageSource(Squares(len(many.shards)), list(many.shards.keys))
    with serving(many, StoredPictures(source, many.shards)) as found:
        yield found


def test_a_hundred_thousand_images(open_page: OpenPage, many_address: str, many: Catalog) -> None:
    page = open_page(many_address)
    expect(page.get_by_role("status")).to_contain_text("of 100,000 images")
    page.get_by_label("Sort by").select_option("label_prob")
    order = np.argsort(many.statistics.label_prob, kind="stable")
    expect(page.locator(".card").first).to_have_attribute("title", many.shards.keys[order[0]])
    page.get_by_label("Label probability, at least").fill("0.5")
    matches = int((many.statistics.label_prob >= 0.5).sum())
    expect(page.get_by_role("status")).to_contain_text(f"of {matches:,} images")
    assert page.locator(".card").count() == 48
    page.goto(f"{many_address}#image/{order[-1]}?sort=label_prob&at=99999")
    expect(page.get_by_role("heading", level=1)).to_have_text(many.shards.keys[order[-1]])
    page.get_by_role("link", name="Previous").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(many.shards.keys[order[-2]])
