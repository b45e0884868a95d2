"""Remedies that name a host's options, which the core does not know.

Each adapter registers its remedies when it is imported; error messages append those registered for
their topic.
"""

from __future__ import annotations

_TOPICS = ("class_map", "num_classes", "temperature")
_advice: dict[str, dict[str, str]] = {topic: {} for topic in _TOPICS}


def add_advice(host: str, **topics: str) -> None:
    """Register a host's remedies.

    Args:
        host: Name of the host, as users know it.
        **topics: The setting to write for ``class_map``, ``num_classes`` or ``temperature``.

    Raises:
        KeyError: The topic is unknown.

    Example:
        >>> add_advice("Keras", num_classes="Dense(units=...)")
        >>> "Keras: Dense(units=...)" in advice("num_classes")
        True
        >>> del _advice["num_classes"]["Keras"]
    """
    for topic, text in topics.items():
        _advice[topic][host] = text


def advice(topic: str) -> str:
    """Return the remedies registered for a topic, in brackets; empty if there are none."""
    entries = "; ".join(f"{host}: {text}" for host, text in _advice[topic].items())
    return f" ({entries})" if entries else ""
