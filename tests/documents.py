"""What the documents show, taken from them, so that tests run it as it stands."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def code_blocks(document: str, language: str, after: str = "", before: str = "") -> list[str]:
    """Code of a document: its fenced blocks of one language, in order.

    Args:
        document: Path from the root of the repository.
        language: As it stands behind the fence.
        after: Only blocks behind the first place of this text.
        before: Only blocks in front of the next place of this one.
    """
    text = (ROOT / document).read_text()
    start = text.index(after)
    end = text.index(before, start) if before else len(text)
    return re.findall(rf"^```{language}\n(.*?)^```$", text[start:end], re.M | re.S)


def api_page() -> dict[str, list[str]]:
    """The names that docs/api.md lists, by package."""
    _, *sections = re.split(
        r"^## ", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.M
    )
    found = {}
    for section in sections:
        package, _, text = section.partition("\n")
        found[package.strip("`")] = re.findall(r"^\| `(\w+)` \| \S.* \|$", text, re.M)
    return found
