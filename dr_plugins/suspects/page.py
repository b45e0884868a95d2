"""Suspects as a page: one HTML file with thumbnails, which needs no server and no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template

from dr_plugins.errors import UnknownImageError
from dr_plugins.pictures import StoredPictures
from dr_plugins.shards.address import located
from dr_plugins.suspects.finding import Suspect
from dr_plugins.suspects.tables import class_name
from dr_plugins.utils.quoting import quoted

_SIDE = 160  # pixels of a thumbnail, at most
_SMALLEST = 96  # smaller images are enlarged to this

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # no other requests
_PAGE = Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="$policy">
<title>$title</title>
<style>
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem;
  padding: 0 1rem }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)) }
figure { border: 1px solid #8886; border-radius: .5rem; margin: 0; padding: .75rem }
img { display: block; margin: 0 auto .5rem; max-width: 100% }
code { display: block; font-size: .8rem; overflow-wrap: anywhere }
div { align-items: center; display: flex; gap: .5rem }
span { flex: 1; overflow-wrap: anywhere }
meter { width: 5rem }
small { opacity: .75 }
</style>
<h1>$title</h1>
<p>$about</p>
<main>
$figures
</main>
</html>
"""
)


def write_page(
    suspects: Sequence[Suspect],
    class_names: Sequence[str] | None,
    path: Path,
    *,
    title: str,
    pictures: Sequence[StoredPictures] = (),
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Write a page of suspects, in the order given.

    Args:
        suspects: Of `find_suspects`; some hundreds, as each picture is part of the file.
        class_names: In label order; None shows numbers.
        path: The HTML file.
        title: Of the page.
        pictures: The images, one for each set; none shows no pictures.
        advance: Called after each suspect.

    Raises:
        UnknownImageError: A suspect is not among the images.
        ImageReadError: An image cannot be read.
        ImageChangedError: An image is not the one that was reinforced.
        OutputError: The file cannot be written.

    Example:
        >>> write_page(suspects[:200], names, Path("suspects.html"),        # doctest: +SKIP
        ...            title="ImageNet", pictures=[StoredPictures(source, shards)])
    """
    places = _places(pictures, suspects) if pictures else {}
    figures = []
    for suspect in suspects:
        picture = _thumbnail(*places[suspect.key]) if pictures else ""
        figures.append(_figure(suspect, class_names, picture))
        advance()
    about = (
        f"{len(suspects):,} images whose label the teacher does not believe, the most suspicious "
        f"first. Probabilities are averages over the stored views; agreement is the share of views "
        f"whose most probable class is the label."
    )
    page = _PAGE.substitute(
        title=escape(title), policy=_POLICY, about=about, figures="\n".join(figures)
    )
    located(path).write([page.encode()])


def _places(
    pictures: Sequence[StoredPictures], suspects: Sequence[Suspect]
) -> dict[str, tuple[StoredPictures, int]]:
    """The set and the row of each suspect."""
    found: dict[str, tuple[StoredPictures, int]] = {}
    for each in pictures:
        keys = [suspect.key for suspect in suspects if suspect.key in each.shards.keys]
        rows = each.shards.keys.rows(keys).tolist()
        found |= {key: (each, row) for key, row in zip(keys, rows, strict=True) if row in each}
    if missing := sorted({suspect.key for suspect in suspects} - found.keys()):
        examples = ", ".join(map(quoted, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise UnknownImageError(
            f"{len(missing)} suspects are not among the images: {examples}. "
            f"Point to the images that were reinforced"
        )
    return found


def _thumbnail(pictures: StoredPictures, row: int) -> str:
    image = pictures.image(row)
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "PNG" if max(image.size) < _SMALLEST else "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    width = max(_SMALLEST * image.width // max(image.size), image.width)
    # Browsers read the kind of a picture from its data.
    return f'<img src="data:image/png;base64,{data}" width="{width}" alt="">\n'


def _figure(suspect: Suspect, class_names: Sequence[str] | None, picture: str) -> str:
    bars = [
        _bar(kind, class_name(number, class_names), prob)
        for kind, number, prob in (
            ("label", suspect.label, suspect.label_prob),
            ("suggested", suspect.suggested, suspect.suggested_prob),
        )
    ]
    return (
        f"<figure>\n{picture}<figcaption>\n<code>{escape(suspect.key)}</code>\n"
        + "\n".join(bars)
        + f"\n<small>margin {suspect.margin:.3f}, agreement {suspect.agreement:.0%}</small>\n"
        f"</figcaption>\n</figure>"
    )


def _bar(kind: str, name: str, prob: float) -> str:
    return (
        f"<div><span>{escape(name)} <small>{kind}</small></span>"
        f'<meter value="{prob:.4f}"></meter>{prob:.1%}</div>'
    )
