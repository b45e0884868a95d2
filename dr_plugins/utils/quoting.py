"""Quoting names in messages: different names never look the same."""

from __future__ import annotations

import unicodedata


def quoted(name: str) -> str:
    r"""Return a name in quotes, with combining accents escaped.

    Example:
        >>> print(quoted("caf\u00e9"), quoted("cafe\u0301"))
        'café' 'cafe\u0301'
    """
    return repr(name) if unicodedata.is_normalized("NFC", name) else ascii(name)


def respelt(name: str) -> list[str]:
    """Return the same-looking spellings of a name in other Unicode normal forms."""
    forms = (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return [form for form in dict.fromkeys(forms) if form != name]
