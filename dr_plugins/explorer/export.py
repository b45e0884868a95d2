"""The page as files that need no server: for a file system, a web server or a static Space."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dr_plugins.errors import OutputError, SettingsMismatchError
from dr_plugins.explorer.catalog import Catalog
from dr_plugins.explorer.encoding import (
    ORIGINAL,
    THUMBNAIL,
    encoded_image,
    encoded_sheet,
    sheet_columns,
)
from dr_plugins.pictures import StoredPictures
from dr_plugins.shards.address import located
from dr_plugins.utils.workers import alive, noticing_dead_workers

_STATIC = Path(__file__).with_name("static")
_PICTURES = ("thumbnails", "originals", "sheets")
_VIEW_SIDE = 112  # pixels of a view in a sheet
_MARK = "data/set_id.txt"  # says which set a directory holds
_Draw = Callable[[StoredPictures, int, int], bytes]
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
    workers: int = 0,
    progress: bool = True,
) -> None:
    """Write the page with its data and pictures.

    Pictures of an earlier export of the set are kept if they belong to this one, and else deleted.

    Args:
        catalog: The shard set's data.
        pictures: Its images; None shows the data alone.
        out: Directory of the page, created if missing: ``index.html`` is the page.
        limit: Number of images, evenly spread over the set; None exports all.
        workers: Processes that draw; 0 uses this one.
        progress: Show a progress bar.

    Raises:
        SettingsMismatchError: The directory holds something else.
        OutputError: A file cannot be written.
        ImageReadError: An image cannot be read.
        ImageChangedError: An image is not the one that was reinforced.
        WorkerError: A process died.

    Example:
        >>> export(catalog, pictures, Path("page"), limit=500)              # doctest: +SKIP
    """
    count = len(catalog.shards)
    rows = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int).tolist()
    try:
        _claim(out, catalog.shards.manifest.set_id)
        _delete_others(out, rows, pictures is not None)
        _write_page(out)
    except OSError as error:
        raise OutputError(f"cannot export to {out}: {error}") from error
    drawn = DataLoader(_Drawing(pictures, out, rows), batch_size=None, num_workers=workers)
    with tqdm(total=len(rows), desc="images", disable=not progress) as bar, noticing_dead_workers():
        for row in alive(drawn):
            details = f"exported.details[{row}] = {_json(catalog.image(row))};\n"
            _write(out / "data" / f"{row}.js", details.encode())
            bar.update()
    _write_set(catalog, pictures is not None, rows, out)


class _Drawing(Dataset[int]):
    """Writes the pictures of an image when it is asked for its row."""

    def __init__(self, pictures: StoredPictures | None, out: Path, rows: list[int]) -> None:
        self.pictures, self.out, self.rows = pictures, out, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        row = self.rows[index]
        if self.pictures is not None:
            self._write("thumbnails", row, encoded_image, THUMBNAIL)
            self._write("originals", row, encoded_image, ORIGINAL)
            self._write("sheets", row, encoded_sheet, _VIEW_SIDE)
        return row

    def _write(self, folder: str, row: int, draw: _Draw, side: int) -> None:
        assert self.pictures is not None
        path = self.out / folder / f"{row}.jpg"
        if not path.exists():
            _write(path, draw(self.pictures, row, side))


def _claim(out: Path, set_id: str) -> None:
    """Check that the directory is empty, or holds an export of the same set."""
    mark = out / _MARK
    if mark.exists() and mark.read_text() == set_id:
        return
    if out.exists() and any(out.iterdir()):
        raise SettingsMismatchError(
            f"{out} holds other files, or the page of another set. Choose an empty directory."
        )
    for name in ("data", *_PICTURES):
        (out / name).mkdir(parents=True, exist_ok=True)
    _write(mark, set_id.encode())


def _delete_others(out: Path, rows: list[int], has_pictures: bool) -> None:
    """Delete what an earlier export showed and this one does not: all of it may be published."""
    for name in ("data", *_PICTURES):
        kept = set(map(str, rows)) if has_pictures or name == "data" else set()
        for file in (out / name).iterdir():
            if file.stem.isdecimal() and file.stem not in kept:
                file.unlink()


def _write_page(out: Path) -> None:
    for file in _STATIC.iterdir():
        shutil.copyfile(file, out / file.name)
    page = (_STATIC / "index.html").read_text(encoding="utf-8")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    page = page.replace("<!-- policy -->", policy)
    page = page.replace("<!-- data -->", '<script defer src="data/set.js"></script>')
    _write(out / "index.html", page.encode())


def _write_set(catalog: Catalog, has_pictures: bool, rows: list[int], out: Path) -> None:
    samples = catalog.shards.manifest.samples
    columns = sheet_columns(samples)
    sheet = {"columns": columns, "rows": -(-samples // columns)}
    about = {**catalog.overview, "has_pictures": has_pictures, "sheet": sheet}
    images = [catalog.numbers(row) for row in rows]
    content = {"set": about, "images": images, "details": {}}
    _write(out / "data" / "set.js", f"const exported = {_json(content)};\n".encode())


def _write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    located(path).write([content])


def _json(content: Any) -> str:
    return json.dumps(content, allow_nan=False, separators=(",", ":"))
