"""Text in pictures: any name is drawn, and fits."""

from __future__ import annotations

from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# What systems have; the first that knows all letters of a name draws it. Pillow's own comes first.
_FILES = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
)
_CUT = "\N{HORIZONTAL ELLIPSIS}"
_MISSING = "\U0010fffd"  # no font knows it


def lettered(text: str, size: int, width: float, keep_end: bool = False) -> tuple[str, Font]:
    """Return a text that can be drawn in a width, and the font for it.

    Letters that no font knows, and those that would not show, are escaped.

    Args:
        text: Any name.
        size: Height of a line, in pixels.
        width: In pixels.
        keep_end: Leave out the middle of what does not fit, as for files, and not its end.
    """
    fonts = _fonts(size)
    shown = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)
    font = next((f for f in fonts if all(_knows(f, letter) for letter in {*shown})), None)
    if font is None:
        font = max(fonts, key=lambda f: sum(_knows(f, letter) for letter in shown))
        shown = "".join(c if _knows(font, c) else _escaped(c) for c in shown)
    return _shortened(shown, font, width, keep_end), font


def _shortened(text: str, font: Font, width: float, keep_end: bool) -> str:
    if font.getlength(text) <= width:
        return text

    def shortened(kept: int) -> str:
        end = kept // 2 if keep_end else 0
        return text[: kept - end].rstrip(" ,") + _CUT + text[len(text) - end :]

    least, most = 0, len(text)  # letters that are kept
    while least < most - 1:
        middle = (least + most) // 2
        fits = font.getlength(shortened(middle)) <= width
        least, most = (middle, most) if fits else (least, middle)
    return shortened(least)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode()


@cache
def _fonts(size: int) -> tuple[Font, ...]:
    found: list[Font] = [ImageFont.load_default(size)]
    for name in _FILES:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)


@cache
def _knows(font: Font, letter: str) -> bool:
    if letter.isspace():
        return True
    return bytes(font.getmask(letter)) != bytes(font.getmask(_MISSING))
