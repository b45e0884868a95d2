"""Remedies in the words of whoever calls: the core does not know its hosts' options.

An adapter adds what its users have to write, once, when it is imported; a message ends with what
was added for its topic.
"""

from __future__ import annotations

__all__ = ["add_advice", "advice"]

_TOPICS = ("class_map", "num_classes", "temperature")
_advice: dict[str, dict[str, str]] = {topic: {} for topic in _TOPICS}


def add_advice(host: str, **topics: str) -> None:
    """Add a host's remedies.

    Args:
        host: Name of the host, as users know it.
        **topics: For ``class_map``, ``num_classes`` and ``temperature``, what its users write.

    Raises:
        KeyError: There is no such topic.

    Example:
        >>> add_advice("Keras", num_classes="Dense(units=...)")
        >>> "Keras: Dense(units=...)" in advice("num_classes")
        True
        >>> del _advice["num_classes"]["Keras"]
    """
    for topic, text in topics.items():
        _advice[topic][host] = text


def advice(topic: str) -> str:
    """Return what was added for a topic, in brackets; empty if nothing was."""
    entries = "; ".join(f"{host}: {text}" for host, text in _advice[topic].items())
    return f" ({entries})" if entries else ""
