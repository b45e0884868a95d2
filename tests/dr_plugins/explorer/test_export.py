"""The exported page answers as the server does, from files alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dr_plugins.errors import OutputError, SettingsMismatchError
from dr_plugins.explorer import Catalog, export
from dr_plugins.pictures import StoredPictures
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import open_statistics
from tests.dr_plugins.explorer.conftest import CLASSES, HOSTILE, SAMPLES

QUERIES: list[dict[str, Any]] = [
    {},
    {"label": "0"},
    {"label": "1", "sort": "entropy", "order": "descending"},
    {"predicted": "2", "sort": "spread", "offset": 3},
    {"search": "onerror"},
    {"sort": "agreement", "confidence": "0.4,", "entropy": ",1.2"},
    {"sort": "key", "order": "descending", "label_prob": "0.1,0.7"},
]


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, catalog: Catalog, pictures: StoredPictures
) -> Path:
    out = tmp_path_factory.mktemp("export") / "page"
    export(catalog, pictures, out, progress=False)
    return out


def content(out: Path) -> Any:
    text = (out / "data" / "set.js").read_text()
    return json.loads(text.removeprefix("const exported = ").removesuffix(";\n"))


def test_an_export_has_everything(exported: Path, catalog: Catalog) -> None:
    count = len(catalog.shards)
    found = content(exported)
    assert [image["key"] for image in found["images"]] == list(catalog.shards.keys)
    for folder in ("thumbnails", "originals", "sheets"):
        assert len(list((exported / folder).iterdir())) == count
    sheet, size = found["set"]["sheet"], catalog.policy.view_size
    with Image.open(exported / "sheets" / "0.jpg") as image:
        assert image.size == (sheet["columns"] * size[1], sheet["rows"] * size[0])
    assert sheet["columns"] * sheet["rows"] >= SAMPLES


def test_a_part_of_a_set(tmp_path: Path, catalog: Catalog, pictures: StoredPictures) -> None:
    export(catalog, pictures, tmp_path, limit=5, progress=False)
    found = content(tmp_path)
    assert [image["label"] for image in found["images"]] == [0, 1, 2, 2, 3]
    assert found["set"]["images"] == len(catalog.shards)
    assert len(list((tmp_path / "sheets").iterdir())) == 5


def test_an_interrupted_export_keeps_its_pictures(
    tmp_path: Path, catalog: Catalog, pictures: StoredPictures
) -> None:
    export(catalog, pictures, tmp_path, limit=2, progress=False)
    sheet = tmp_path / "sheets" / "0.jpg"
    before = sheet.stat().st_mtime_ns
    export(catalog, pictures, tmp_path, limit=3, progress=False)
    assert sheet.stat().st_mtime_ns == before


def test_what_the_page_no_longer_shows_is_deleted(
    tmp_path: Path, catalog: Catalog, pictures: StoredPictures
) -> None:
    def numbers(folder: str) -> set[str]:
        return {path.stem for path in (tmp_path / folder).iterdir()} - {"set", "set_id"}

    export(catalog, pictures, tmp_path, limit=3, progress=False)
    export(catalog, pictures, tmp_path, limit=1, progress=False)
    for folder in ("data", "thumbnails", "originals", "sheets"):
        assert numbers(folder) == {"0"}
    export(catalog, None, tmp_path, limit=1, progress=False)
    assert numbers("data") == {"0"}
    assert numbers("thumbnails") == numbers("originals") == numbers("sheets") == set()


def test_workers_draw_the_same(
    tmp_path: Path, exported: Path, catalog: Catalog, pictures: StoredPictures
) -> None:
    export(catalog, pictures, tmp_path, limit=3, workers=2, progress=False)
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == [
        "0.jpg",
        "40.jpg",
        "79.jpg",
    ]
    for path in tmp_path.rglob("*.jpg"):
        assert path.read_bytes() == (exported / path.relative_to(tmp_path)).read_bytes()


def test_other_directories_are_left_alone(
    tmp_path: Path, catalog: Catalog, shard_sets: Callable[..., Path]
) -> None:
    other = ShardSet(shard_sets())
    export(Catalog(other, open_statistics(other)), None, tmp_path / "page", progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    for name in ("page", "mine"):
        with pytest.raises(SettingsMismatchError, match=name):
            export(catalog, None, tmp_path / name, progress=False)
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"


def test_no_file_names_this_machine(exported: Path, images: Path) -> None:
    for path in exported.rglob("*"):
        if path.suffix in (".js", ".html", ".css"):
            assert str(images.parent) not in path.read_text()
            assert not re.search(r"https?://(?!www\.w3\.org/)", path.read_text())


def test_a_place_that_cannot_be_written(tmp_path: Path, catalog: Catalog) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        export(catalog, None, tmp_path / "file" / "page", progress=False)


def test_the_same_answers_as_the_server(
    open_page: Callable[..., Any], address: str, exported: Path
) -> None:
    served, static = open_page(address), open_page((exported / "index.html").as_uri())
    for query in QUERIES:
        pages = [
            page.evaluate("query => explorer.data.page(query)", {**query, "limit": 30})
            for page in (served, static)
        ]
        assert pages[0] == pages[1]
    for row in (0, 79):
        pages = [page.evaluate("row => explorer.data.image(row)", row) for page in (served, static)]
        assert pages[0] == pages[1]


def test_the_exported_page(open_page: Callable[..., Any], exported: Path) -> None:
    from playwright.sync_api import expect

    page = open_page((exported / "index.html").as_uri())
    page.get_by_label("File name contains").fill("onerror")
    expect(page.locator(".card")).to_have_count(1)
    page.locator(".card").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"<b>bold/{HOSTILE}")
    expect(page.locator(".view .part")).to_have_count(SAMPLES)
    expect(page.locator(".crops polygon")).to_have_count(SAMPLES)
    assert page.locator(".original img").evaluate("image => image.decode().then(() => true)")
    page.get_by_role("link", name="Classes").click()
    expect(page.locator(".classes tbody tr")).to_have_count(len(CLASSES))
