"""Suspects as CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from dr_plugins.shards.address import located
from dr_plugins.suspects.finding import Suspect


def write_csv(suspects: Sequence[Suspect], class_names: Sequence[str] | None, path: Path) -> None:
    """Write a table, one suspect a line, in the order given.

    Args:
        suspects: Of `find_suspects`.
        class_names: In label order; None writes numbers.
        path: The file, UTF-8.

    Raises:
        OutputError: It cannot be written.

    Example:
        >>> write_csv(suspects, shards.manifest.settings["class_names"], path)  # doctest: +SKIP
    """
    text = StringIO(newline="")
    table = csv.DictWriter(text, Suspect._fields, lineterminator="\n")
    table.writeheader()
    table.writerows(_rows(suspects, class_names))
    located(path).write([text.getvalue().encode()])


def write_json(suspects: Sequence[Suspect], class_names: Sequence[str] | None, path: Path) -> None:
    """Write a list of objects; see `write_csv`.

    Raises:
        OutputError: It cannot be written.

    Example:
        >>> write_json(suspects, shards.manifest.settings["class_names"], path)  # doctest: +SKIP
    """
    text = json.dumps(list(_rows(suspects, class_names)), indent=1)
    located(path).write([text.encode()])


def write_keys(suspects: Sequence[Suspect], path: Path) -> None:
    """Write the keys, one a line: a list to leave out.

    Raises:
        OutputError: It cannot be written.

    Example:
        >>> write_keys(suspects, Path("skip.txt"))                          # doctest: +SKIP
    """
    text = "".join(f"{suspect.key}\n" for suspect in suspects)
    located(path).write([text.encode()])


def class_name(number: int, class_names: Sequence[str] | None) -> str:
    """The name of a class, or its number."""
    return str(number) if class_names is None else class_names[number]


def _rows(
    suspects: Sequence[Suspect], class_names: Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    for suspect in suspects:
        row = suspect._asdict()
        for name in ("label", "suggested"):
            row[name] = class_name(row[name], class_names)
        for name in ("label_prob", "suggested_prob", "margin", "agreement"):
            row[name] = round(row[name], 6)
        yield row
