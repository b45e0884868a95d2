"""The served data is the set's, and nobody else gets it."""

from __future__ import annotations

import io
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from dr_plugins.explorer import Catalog
from dr_plugins.explorer.encoding import encoded_image
from dr_plugins.explorer.selection import Query
from dr_plugins.images.sources import ImageSource, open_source
from dr_plugins.pictures import StoredPictures
from dr_plugins.replay.replayer import Replayer
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics import open_statistics
from dr_plugins.statistics.numbers import NUMBERS, Number
from dr_plugins.targets import SparseTargets
from dr_plugins.transforms.operations import operation_names
from tests.dr_plugins.explorer.conftest import CLASSES, HOSTILE, SAMPLES, TOKEN, serving

pytest.importorskip("starlette")
requests = pytest.importorskip("requests")


def answer(address: str, path: str, **options: Any) -> Any:
    return requests.get(address + path, timeout=30, **options)


ANYTHING = ["", "app.js", "api/set", "api/images", "api/images/0", "thumbnails/0.jpg"]
ANYTHING += ["originals/0.jpg", "views/0/0.png"]


@pytest.mark.parametrize("path", ANYTHING)
def test_everything_needs_the_token(address: str, path: str) -> None:
    assert answer(address, path).status_code == 200
    for wrong in ("", "other/", "the-toke/", "%00/"):
        assert answer(address.replace(f"{TOKEN}/", wrong), path).status_code == 403


@pytest.mark.parametrize(
    "target", ["*", "//", "http://127.0.0.1/", "/the-token2/", "/\xff/", "/" + "x" * 9000]
)
def test_any_other_target_is_refused(address: str, target: str) -> None:
    port = int(address.split(":")[2].partition("/")[0])
    for method in ("GET", "OPTIONS"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode("latin-1"))
            status = int(connection.makefile("rb").readline().split()[1])
        assert status in (400, 403, 404)


@pytest.mark.parametrize("path", ANYTHING)
def test_a_foreign_name_of_this_machine_is_refused(address: str, path: str) -> None:
    port = address.split(":")[2].partition("/")[0]
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", ""):
        assert answer(address, path, headers={"Host": host}).status_code == 400
    assert answer(address, path, headers={"Host": f"localhost:{port}"}).status_code == 200


@pytest.mark.parametrize("path", [*ANYTHING, "nothing"])
def test_every_answer_says_what_browsers_must_not_do(address: str, path: str) -> None:
    headers = answer(address, path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) <= {"'self'", "'none'"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers


MISSING = ["api/images/80", "views/0/5.png", "views/80/0.png", "thumbnails/80.jpg"]
MISSING += ["api/images/-1", "api/images/1e3", "..%2f..%2f__init__.py", "%2e%2e%2fserver.py"]


@pytest.mark.parametrize("path", MISSING)
def test_what_is_not_there(address: str, path: str) -> None:
    assert answer(address, path).status_code == 404


def test_nothing_can_be_changed(address: str) -> None:
    for method in ("post", "put", "delete", "patch"):
        for path in ANYTHING:
            assert requests.request(method, address + path, timeout=30).status_code == 405


@pytest.mark.parametrize(
    "query", ["label=x", "sort=size", "entropy=a,b", "entropy=nan,", "offset=-1", "limit=1e9"]
)
def test_a_malformed_query_is_refused(address: str, query: str) -> None:
    found = answer(address, f"api/images?{query}")
    assert found.status_code == 400
    assert query.partition("=")[0] in found.text


def test_the_whole_set_by_pages(address: str, shards: ShardSet) -> None:
    pages = [answer(address, f"api/images?offset={i}&limit=33").json() for i in (0, 33, 66, 99)]
    assert [len(page["images"]) for page in pages] == [33, 33, 14, 0]
    assert {page["total"] for page in pages} == {80}
    images = [image for page in pages for image in page["images"]]
    assert [image["key"] for image in images] == list(shards.keys)
    assert any(HOSTILE in image["key"] for image in images)
    assert [image["label"] for image in images] == [i // 20 for i in range(80)]


def test_the_overview(address: str) -> None:
    found = answer(address, "api/set").json()
    assert [one["name"] for one in found["classes"]] == sorted(CLASSES)
    assert [one["images"] for one in found["classes"]] == [20] * 4
    assert sum(found["histograms"]["confidence"]) == sum(found["histograms"]["entropy"]) == 80
    assert sum(map(sum, found["matrix"]["counts"])) == 80
    about = dict(found["about"])
    assert set(about) >= {"Policy", "Teachers", "Temperature", "Made with", "Set id"}


def test_an_image(address: str, shards: ShardSet) -> None:
    row = 37
    found = answer(address, f"api/images/{row}").json()
    records = shards.read(np.full(SAMPLES, row), np.arange(SAMPLES))
    targets = SparseTargets(
        records["ids"].astype(np.int64), records["probs"].astype(np.float32), num_classes=4
    )
    dense = targets.dense().numpy()
    assert found["key"] == shards.keys[row]
    assert found["size"] == list(shards.image(row).size)
    for number, prob in found["average"]:
        assert prob == pytest.approx(dense.mean(0)[number], abs=1e-4)
    assert found["confidence"] == pytest.approx(dense.max(1).mean(), abs=1e-4)
    assert found["agreement"] == pytest.approx((dense.argmax(1) == 1).mean())
    for view, record, probs in zip(found["views"], records, dense, strict=True):
        top, left, height, width = record["crop"].tolist()
        assert [number for number, _ in view["top"]] == record["ids"].tolist()
        assert [prob for _, prob in view["top"]] == pytest.approx(probs[record["ids"]], abs=1e-4)
        if not record["ops"].any():
            x, y = zip(*view["outline"], strict=True)
            corners = min(x), min(y), max(x), max(y)
            assert corners == pytest.approx((left, top, left + width, top + height), abs=0.1)
        assert ("mirrored" in view["done"]) == bool(record["flip"])
        assert ("erased" in view["done"]) == bool(record["erase"].any())
        names = [operation_names()[code & 0x7F] for code in record["ops"].tolist() if code]
        named = [done.removeprefix("−") for done in view["done"]]
        assert [name for name in named if name not in ("mirrored", "erased")] == names
        minus = [code >= 0x80 for code in record["ops"].tolist() if code]
        assert sum(done.startswith("−") for done in view["done"]) == sum(minus)


def test_a_view_has_the_pixels_that_the_teacher_saw(
    address: str, shards: ShardSet, images: Path
) -> None:
    replayer = Replayer(open_source(str(images)), shards)
    for row, sample in ((0, 0), (41, 4)):
        (params,) = replayer.policy.decode(shards.read(np.array([row]), np.array([sample])))
        index = replayer.rows.tolist().index(row)
        expected, _ = replayer.view(index, params)
        found = Image.open(io.BytesIO(answer(address, f"views/{row}/{sample}.png").content))
        np.testing.assert_array_equal(np.asarray(found), expected.permute(1, 2, 0).numpy())


def test_thumbnails_keep_the_shape(address: str, shards: ShardSet) -> None:
    height, width = shards.image(12).size
    for kind in ("thumbnails", "originals"):
        image = Image.open(io.BytesIO(answer(address, f"{kind}/12.jpg").content))
        assert image.format == "JPEG"
        assert image.size == (width, height)


class OneFile:
    """Images that are read from one open file, as of many formats: not by two threads at once."""

    def __init__(self, source: ImageSource, file: IO[bytes]) -> None:
        self.file, self.sizes, self.offsets = file, [], [0]
        for index in range(len(source)):
            image, _ = source.load(index)
            self.sizes.append(image.size)
            self.offsets.append(self.offsets[-1] + file.write(image.tobytes()))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        start, end = self.offsets[index : index + 2]
        self.file.seek(start)
        return Image.frombytes("RGB", self.sizes[index], self.file.read(end - start)), -1


def test_many_requests_at_once(shards: ShardSet, images: Path, tmp_path: Path) -> None:
    source, catalog = open_source(str(images)), Catalog(shards, open_statistics(shards))
    paths = [f"originals/{row}.jpg" for row in range(len(shards))]
    with open(tmp_path / "pixels", "w+b", buffering=0) as file, ThreadPoolExecutor(16) as pool:
        shared = StoredPictures(ImageSource(OneFile(source, file), source.keys), shards)
        with serving(catalog, shared) as address:
            found = list(pool.map(lambda path: answer(address, path).content, 3 * paths))
    pictures = StoredPictures(source, shards)
    assert found == 3 * [encoded_image(pictures, row, 1024) for row in range(len(shards))]


def test_a_number_is_stated_once(
    catalog: Catalog, shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NUMBERS, "mixed", Number("Mixed", "whether all views are", most=None))
    again = Catalog(shards, catalog.statistics)
    assert again.overview["numbers"]["mixed"]["name"] == "Mixed"
    assert again.overview["ranges"]["mixed"] == (0.0, 1.0)
    assert catalog.statistics.summary()["mixed"] == 0
    assert again.page(Query.parse({"mixed": "0,0.5", "sort": "mixed"}))["total"] == len(shards)


def test_without_images_there_are_numbers(catalog: Catalog) -> None:
    with serving(catalog, None) as address:
        assert answer(address, "api/set").json()["has_pictures"] is False
        assert len(answer(address, "api/images/0").json()["views"]) == SAMPLES
        assert answer(address, "thumbnails/0.jpg").status_code == 404
