"""Damaged files of every kind, for tests that expect typed errors only."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**40), st.floats(), st.text(max_size=5)
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@st.composite
def mutations(draw: st.DrawFn, original: dict[str, Any]) -> dict[str, Any]:
    """JSON with one to three values replaced, removed or added, at any depth."""
    data = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        node: Any = data
        while inner := list(node) if isinstance(node, dict) else list(range(len(node))):
            name = draw(st.sampled_from(inner))
            if isinstance(node[name], dict | list) and draw(st.booleans()):
                node = node[name]
                continue
            action = draw(st.sampled_from(["replace", "remove", "add"]))
            if action == "remove":
                del node[name]
            elif action == "add" and isinstance(node, dict):
                node[draw(st.text(max_size=4))] = draw(_values)
            else:
                node[name] = draw(_values)
            break
    return data


def with_header(header: Any, data: bytes) -> bytes:
    """A safetensors file of any header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """A safetensors file with a changed header, or with bytes changed, cut out or put in."""
    end = 8 + int.from_bytes(whole[:8], "little")
    if draw(st.booleans()):
        return with_header(draw(mutations(json.loads(whole[8:end]))), whole[end:])
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)) | st.integers(0, min(end, len(data))))
        cut = draw(st.sampled_from([0, 1, 1, 8, 1000]))
        data[start : start + cut] = draw(st.binary(max_size=9))
    return bytes(data)
