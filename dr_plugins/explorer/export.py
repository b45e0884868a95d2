"""The page as files that need no server: for a file system, a web server or a static Space."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dr_plugins.errors import OutputError
from dr_plugins.explorer.catalog import Catalog
from dr_plugins.explorer.encoding import (
    ORIGINAL,
    THUMBNAIL,
    encoded_image,
    encoded_sheet,
    sheet_columns,
)
from dr_plugins.pictures import StoredPictures

_STATIC = Path(__file__).with_name("static")
_VIEW_SIDE = 112  # pixels of a view in a sheet
# What the server sends as a header; a page of a file system has no origin to call its own.
_POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file:; "
    "base-uri 'none'; form-action 'none'"
)


def export(
    catalog: Catalog,
    pictures: StoredPictures | None,
    out: Path,
    *,
    limit: int | None = None,
    progress: bool = True,
) -> None:
    """Write the page with its data and pictures; files of an earlier export are kept.

    Args:
        catalog: The shard set's data.
        pictures: Its images; None shows the data alone.
        out: Directory of the page, created if missing: ``index.html`` is the page.
        limit: Number of images, evenly spread over the set; None exports all.
        progress: Show a progress bar.

    Raises:
        OutputError: A file cannot be written.
        ImageReadError: An image cannot be read.
        ImageChangedError: An image is not the one that was reinforced.

    Example:
        >>> export(catalog, pictures, Path("page"), limit=500)              # doctest: +SKIP
    """
    count = len(catalog.shards)
    rows = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int).tolist()
    try:
        _write_page(out)
        for row in tqdm(rows, "images", disable=not progress):
            _write_image(catalog, pictures, out, row)
        _write_set(catalog, pictures is not None, rows, out)
    except OSError as error:
        raise OutputError(f"cannot export to {out}: {error}") from error


def _write_page(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in ("data", "thumbnails", "originals", "sheets"):
        (out / name).mkdir(exist_ok=True)
    for file in _STATIC.iterdir():
        shutil.copyfile(file, out / file.name)
    page = (_STATIC / "index.html").read_text(encoding="utf-8")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    page = page.replace("<!-- policy -->", policy)
    page = page.replace("<!-- data -->", '<script defer src="data/set.js"></script>')
    (out / "index.html").write_text(page, encoding="utf-8")


def _write_set(catalog: Catalog, has_pictures: bool, rows: list[int], out: Path) -> None:
    samples = catalog.shards.manifest.samples
    columns = sheet_columns(samples)
    sheet = {"columns": columns, "rows": -(-samples // columns)}
    about = {**catalog.overview, "has_pictures": has_pictures, "sheet": sheet}
    images = [catalog.numbers(row) for row in rows]
    content = {"set": about, "images": images, "details": {}}
    (out / "data" / "set.js").write_text(f"const exported = {_json(content)};\n", encoding="utf-8")


def _write_image(catalog: Catalog, pictures: StoredPictures | None, out: Path, row: int) -> None:
    if pictures is not None:
        _write_once(
            out / "thumbnails" / f"{row}.jpg", lambda: encoded_image(pictures, row, THUMBNAIL)
        )
        _write_once(
            out / "originals" / f"{row}.jpg", lambda: encoded_image(pictures, row, ORIGINAL)
        )
        _write_once(out / "sheets" / f"{row}.jpg", lambda: encoded_sheet(pictures, row, _VIEW_SIDE))
    text = f"exported.details[{row}] = {_json(catalog.image(row))};\n"
    (out / "data" / f"{row}.js").write_text(text, encoding="utf-8")


def _write_once(path: Path, make: Callable[[], bytes]) -> None:
    if not path.exists():
        path.write_bytes(make())


def _json(content: Any) -> str:
    return json.dumps(content, allow_nan=False, separators=(",", ":"))
