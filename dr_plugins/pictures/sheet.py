"""A contact sheet: images with their crops, the views that a teacher saw, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dr_plugins.pictures.lettering import lettered
from dr_plugins.pictures.stored import StoredPictures
from dr_plugins.records import NO_PARTNER
from dr_plugins.statistics import ImageStatistics, average_answers
from dr_plugins.statistics.computing import statistics_of

# Pixels.
_MARGIN, _GAP, _BETWEEN = 28, 14, 34
_ORIGINAL, _TALLEST, _VIEW, _BAR, _TEXT, _TITLE = 300, 240, 176, 21, 13, 17
_PER_LINE = 6  # views

_PAPER, _INK, _FAINT, _RULE, _TRACK = "#ffffff", "#1c2024", "#69707a", "#d9dde2", "#eef0f3"
_RIGHT, _OTHER, _ALARM = "#a8dcb0", "#bcd4f5", "#b3261e"
# Of crops on the original and of the frames of their views: Tableau's ten, without grey and green.
_COLOURS = ("#4e79a7", "#f28e2b", "#e15759", "#17a2a2", "#b07aa1", "#b8860b", "#ff6f91", "#9c755f")


@dataclass(frozen=True)
class _Subject:
    """One image of the sheet: its row, its statistics, and which of its views are shown."""

    row: int
    statistics: ImageStatistics  # of this image alone
    samples: Sequence[int]

    @property
    def label(self) -> int:
        return int(self.statistics.label[0])


def draw_sheet(
    pictures: StoredPictures, rows: Sequence[int], *, views: int = 6, topk: int = 3
) -> Image.Image:
    """Draw images with some of their views and the teacher's answers.

    For each image: the original with the outlines of the shown views, its key, label and
    statistics, and the answer averaged over all its views; then the views, each framed in the
    colour of its outline, with the most probable classes. The bar of the label is green.

    Args:
        pictures: The set and its images.
        rows: The images, from top to bottom.
        views: Views of each, evenly spread over its samples.
        topk: Classes under each view.

    Raises:
        UnknownImageError: An image is in the set, but not among the images.
        ImageReadError: An image cannot be read.
        ImageChangedError: An image is not the one that was reinforced.
        FormatError: A record is damaged.
        ValueError: `rows` is empty, or `views` below 1.

    Example:
        >>> draw_sheet(pictures, [0, 17, 99]).save("sheet.png")             # doctest: +SKIP
    """
    if not len(rows):
        raise ValueError("there are no images to draw; expected at least one row")
    if views < 1:
        raise ValueError(f"views is {views}, expected at least 1")
    return _Sheet(pictures, views, topk).draw([int(row) for row in rows])


class _Sheet:
    def __init__(self, pictures: StoredPictures, views: int, topk: int) -> None:
        self._pictures, self._shards = pictures, pictures.shards
        manifest = self._shards.manifest
        self._topk = min(topk, manifest.topk)
        spread = np.linspace(0, manifest.samples - 1, min(views, manifest.samples))
        self._samples = np.unique(spread.round().astype(int)).tolist()
        height, width = pictures.view_size
        scale = _VIEW / max(height, width)
        self._view = (max(1, round(width * scale)), max(1, round(height * scale)))
        self._columns = min(_PER_LINE, len(self._samples))

    def draw(self, rows: Sequence[int]) -> Image.Image:
        blocks = [self._block(row) for row in rows]
        width = blocks[0].width + 2 * _MARGIN
        height = sum(block.height + _BETWEEN for block in blocks) + _MARGIN + _TEXT + _MARGIN
        page = Image.new("RGB", (width, height), _PAPER)
        draw, top = ImageDraw.Draw(page), _MARGIN
        for block in blocks:
            page.paste(block, (_MARGIN, top))
            top += block.height + _BETWEEN
            line = top - _BETWEEN // 2
            draw.line([(_MARGIN, line), (width - _MARGIN, line)], _RULE)
        self._write_legend(draw, top, width)
        return page

    def _write_legend(self, draw: ImageDraw.ImageDraw, top: int, width: int) -> None:
        manifest, x = self._shards.manifest, float(_MARGIN)
        for colour, text in ((_RIGHT, "the label"), (_OTHER, "another class")):
            draw.rectangle([x, top, x + _TEXT - 1, top + _TEXT - 1], colour)
            x += _TEXT + 6
            x += _write(draw, (x, top), text, _TEXT, width, _FAINT) + 18
        text = (
            f"outlines: where the views were cut out   ·   {self._shards.location.name}: "
            f"{len(self._shards):,} images, {manifest.samples:,} views each, "
            f"{manifest.num_classes:,} classes"
        )
        _write(draw, (x, top), text, _TEXT, width - x - _MARGIN, _FAINT)

    def _block(self, row: int) -> Image.Image:
        """One image with its views."""
        statistics = statistics_of(self._shards, [row])
        subject = _Subject(row, statistics, self._samples)
        left, right = self._left(subject), self._right(subject)
        title = _TITLE + _TEXT + 22
        size = (left.width + 2 * _GAP + right.width, title + max(left.height, right.height))
        block = Image.new("RGB", size, _PAPER)
        self._write_title(ImageDraw.Draw(block), subject, size[0])
        block.paste(left, (0, title))
        block.paste(right, (left.width + 2 * _GAP, title))
        return block

    def _write_title(self, draw: ImageDraw.ImageDraw, subject: _Subject, width: int) -> None:
        found = subject.statistics
        _write(draw, (0, 0), self._shards.keys[subject.row], _TITLE, width, _INK, keep_end=True)
        agreement = float(found.agreement[0])
        facts = [
            ("label", "unknown" if subject.label < 0 else self._name(subject.label), _INK),
            *(
                []
                if np.isnan(agreement)
                else [("agreement", f"{agreement:.0%}", _ALARM if agreement < 0.5 else _INK)]
            ),
            ("confidence", f"{found.confidence[0]:.2f}", _INK),
            ("entropy", f"{found.entropy[0]:.2f}", _INK),
            ("spread", f"{found.spread[0]:.2f}", _INK),
        ]
        x = 0.0
        for name, value, colour in facts:
            x += _write(draw, (x, _TITLE + 8), f"{name} ", _TEXT, 200, _FAINT)
            x += _write(draw, (x, _TITLE + 8), value, _TEXT, 400, colour) + 18

    def _left(self, subject: _Subject) -> Image.Image:
        """The original with the outlines of its views, and the averaged answer."""
        image = self._pictures.image(subject.row)
        outlines = [self._pictures.outline(subject.row, s, image) for s in subject.samples]
        original = outlined(image, outlines, (_ORIGINAL, _TALLEST))
        classes, probs = average_answers(self._shards, [subject.row])
        count = min(5, int((classes[0] >= 0).sum()))
        caption = f"mean of {self._counted(subject)}"
        bars = self._bars(subject, classes[0][:count], probs[0][:count], _ORIGINAL)
        height = original.height + 8 + _TEXT + 8 + bars.height
        left = Image.new("RGB", (_ORIGINAL, height), _PAPER)
        left.paste(original, ((_ORIGINAL - original.width) // 2, 0))
        below = original.height + 8
        _write(ImageDraw.Draw(left), (0, below), caption, _TEXT, _ORIGINAL, _FAINT)
        left.paste(bars, (0, below + _TEXT + 8))
        return left

    def _counted(self, subject: _Subject) -> str:
        """What the statistics are a mean of; see `ImageStatistics`."""
        if "partner" not in (self._shards.manifest.layout.dtype.names or ()):
            return f"all {self._shards.manifest.samples:,} views"
        return "all views, which are mixed" if subject.statistics.mixed[0] else "the unmixed views"

    def _right(self, subject: _Subject) -> Image.Image:
        """The views, in lines."""
        cells = [self._cell(subject, number) for number in range(len(subject.samples))]
        width, height = cells[0].size
        lines = -(-len(cells) // self._columns)
        size = (
            self._columns * (width + _GAP) - _GAP,
            lines * (height + _GAP) - _GAP,
        )
        right = Image.new("RGB", size, _PAPER)
        for number, cell in enumerate(cells):
            line, column = divmod(number, self._columns)
            right.paste(cell, (column * (width + _GAP), line * (height + _GAP)))
        return right

    def _cell(self, subject: _Subject, number: int) -> Image.Image:
        """A view, framed in the colour of its outline, with the teacher's answer."""
        sample = subject.samples[number]
        record = self._shards[subject.row, sample]
        view = resized(self._pictures.view(subject.row, sample), self._view)
        ids, probs = record["ids"][: self._topk], record["probs"][: self._topk]
        bars = self._bars(subject, ids, probs.astype(np.float32), _VIEW)
        cell = Image.new("RGB", (_VIEW, self._view[1] + 6 + _TEXT + 12 + bars.height), _PAPER)
        draw = ImageDraw.Draw(cell)
        left = (_VIEW - self._view[0]) // 2
        cell.paste(view, (left, 0))
        colour = _COLOURS[number % len(_COLOURS)]
        draw.rectangle(
            [left, self._view[1] + 1, left + self._view[0] - 1, self._view[1] + 4], colour
        )
        below = self._view[1] + 9
        caption = f"view {sample}" + (", mixed" if _is_mixed(record) else "")
        _write(draw, (0, below), caption, _TEXT, _VIEW, _FAINT)
        cell.paste(bars, (0, below + _TEXT + 7))
        return cell

    def _bars(
        self, subject: _Subject, classes: np.ndarray, probs: np.ndarray, width: int
    ) -> Image.Image:
        """Classes with their probabilities as bars, the label's in another colour."""
        step = _BAR + 3
        bars = Image.new("RGB", (width, max(1, len(classes) * step)), _PAPER)
        draw = ImageDraw.Draw(bars)
        for line, (number, prob) in enumerate(zip(classes.tolist(), probs.tolist(), strict=True)):
            top = line * step
            colour = _RIGHT if number == subject.label else _OTHER
            draw.rectangle([0, top, width - 1, top + _BAR - 1], _TRACK)
            if (filled := round(width * min(prob, 1))) > 0:
                draw.rectangle([0, top, filled - 1, top + _BAR - 1], colour)
            value = f"{prob:.2f}"
            text, font = lettered(value, _TEXT, width)
            room = width - font.getlength(text) - 16
            y = top + _BAR / 2
            draw.text((width - 5, y), text, _INK, font, anchor="rm")
            name, font = lettered(self._name(number), _TEXT, room)
            draw.text((5, y), name, _INK, font, anchor="lm")
        return bars

    def _name(self, number: int) -> str:
        names = self._shards.manifest.settings["class_names"]
        return f"class {number}" if names is None else str(names[number])


def outlined(
    image: Image.Image, outlines: Sequence[np.ndarray], room: tuple[int, int]
) -> Image.Image:
    """Return an image as large as it fits, with outlines in different colours.

    Args:
        image: RGB.
        outlines: (x, y) of corners in pixels of the image, ``[n, 2]`` each; they may lie outside.
        room: Width and height in pixels.
    """
    scale = min(room[0] / image.width, room[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = resized(image, size)
    fine = 3  # Pillow's lines have no antialiasing
    layer = Image.new("RGBA", (size[0] * fine, size[1] * fine))
    draw = ImageDraw.Draw(layer)
    for colour, width in ((lambda n: "#ffffff", 5), (lambda n: _COLOURS[n % len(_COLOURS)], 3)):
        for number, outline in enumerate(outlines):
            inside = _pulled_in(np.asarray(outline) * scale, size)
            points = [tuple(point) for point in (inside * fine).tolist()]
            draw.line([*points, *points[:2]], colour(number), width * fine, "curve")
    canvas.paste(
        layer.resize(size, Image.Resampling.BOX),
        mask=layer.resize(size, Image.Resampling.BOX).getchannel("A"),
    )
    return canvas


def _pulled_in(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Move corners on the border inwards, so that the whole line shows."""
    low, high = np.array([2.0, 2.0]), np.array(size) - 2.5
    near = (points > -2) & (points < np.array(size) + 2)
    return np.where(near, points.clip(low, high), points)


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return an image at another size; pixels of a small one stay visible."""
    is_small = image.width * 2 <= size[0]
    return image.resize(size, Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS)


def _is_mixed(record: np.void) -> bool:
    return "partner" in (record.dtype.names or ()) and record["partner"] != NO_PARTNER


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    width: float,
    colour: str,
    keep_end: bool = False,
) -> float:
    """Write a line; return its length in pixels."""
    shown, font = lettered(text, size, width, keep_end)
    draw.text(place, shown, colour, font, anchor="la")
    return float(font.getlength(shown))
