"""Small tables for notebooks: plain HTML in the notebook's own colours, so light and dark fit."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_CELL = "text-align:left;vertical-align:top;padding:.15em 1em .15em 0"


def html_table(title: str, rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Return a table.

    Args:
        title: Above the table.
        rows: Texts of the cells; everything in them is shown as it is, never as markup.
        header: Names of the columns, if there are any.

    Example:
        >>> "&lt;b&gt;" in html_table("Names", [["<b>", "1"]])
        True
    """
    head = "".join(f'<th style="{_CELL}">{_escaped(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{_escaped(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div style="font-size:.9em"><b>{_escaped(title)}</b>'
        f'<table style="border-collapse:collapse;margin:.3em 0">'
        f"{f'<tr>{head}</tr>' if head else ''}{body}</table></div>"
    )


def _escaped(text: str) -> str:
    # What no browser can decode, such as half of a file name's bytes, is escaped as Python does.
    return html.escape(text.encode("utf-8", "backslashreplace").decode())
