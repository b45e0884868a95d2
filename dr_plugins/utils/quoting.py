"""Names in messages, so that two different ones never look the same."""

from __future__ import annotations

import unicodedata

__all__ = ["quoted", "respelt"]


def quoted(name: str) -> str:
    r"""Return a name in quotes; its accents are escaped where they are characters of their own.

    Example:
        >>> print(quoted("caf\u00e9"), quoted("cafe\u0301"))
        'café' 'cafe\u0301'
    """
    return repr(name) if unicodedata.is_normalized("NFC", name) else ascii(name)


def respelt(name: str) -> list[str]:
    """Return the names that look the same in Unicode's other normal form, if there are any."""
    forms = (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return [form for form in dict.fromkeys(forms) if form != name]
