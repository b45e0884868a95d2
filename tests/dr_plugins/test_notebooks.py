"""What notebooks show is whole HTML, with names as text and no colours of its own."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder

from dr_plugins.images.sources import ImageSource
from dr_plugins.shards.reader import ShardSet
from dr_plugins.targets import SparseTargets
from tests.tiny import make_photographs, make_set

_NAMES = ("<script>alert(1)</script>", 'a"b&c', "кошка")


class Reader(HTMLParser):
    """Collects the texts, and checks that all elements are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.tags.add(tag)
        assert "color" not in str(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_shard_set_shows_its_facts_and_hostile_names_as_text(tmp_path: Path) -> None:
    root = make_photographs(tmp_path / "images")
    images = ImageFolder(str(root))
    images.classes = list(_NAMES)
    shards = ShardSet(make_set(tmp_path / "<img src=x>", ImageSource(images)))
    read = Reader(shards._repr_html_())
    assert read.tags <= {"div", "b", "table", "tr", "td"}
    assert str(tmp_path / "<img src=x>") in read.texts
    assert any(all(name in text for name in _NAMES) for text in read.texts)
    assert shards.manifest.set_id in read.texts


def test_targets_show_the_most_probable_classes() -> None:
    targets = SparseTargets([[2, 7], [1, -1]], [[0.2, 0.7], [1.0, 0.0]], [7, -1], num_classes=10)
    read = Reader(targets._repr_html_())
    assert "7: 0.700, 2: 0.200" in read.texts
    assert "1: 1.000" in read.texts
    assert "7: 0.700, 2: 0.200" in Reader(targets[0]._repr_html_()).texts


def test_many_targets_are_a_small_table() -> None:
    ids = torch.arange(40).repeat(1000, 1)
    targets = SparseTargets(ids, torch.full(ids.shape, 0.02), num_classes=50)
    page = targets._repr_html_()
    assert len(page) < 5000
    assert "..." in Reader(page).texts
