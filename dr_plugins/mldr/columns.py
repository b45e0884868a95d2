"""Transpose ml-dr's parameters from rows (reinforcements) to columns (transforms).

ml-dr has two layouts. With ``compress: true``, the parameters of a reinforcement are a list in the
order of the transforms; transforms without parameters have no entry. If the policy mixes, the
list starts with the partner's index, or None if this reinforcement is not mixed; if it is, every
entry is a pair, for the image and for its partner. Without ``compress``, they are a dictionary
from transform to pair. In both layouts, None means that the transform was skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dr_plugins.mldr.errors import ArchiveError

_WITHOUT_PARAMETERS = frozenset({"uint8", "to_tensor", "normalize", "center_crop", "id2"})


@dataclass(frozen=True)
class Columns:
    """Parameters of S reinforcements.

    Attributes:
        view: For each transform, S values.
        mixed: Indices of the M reinforcements that are mixed.
        partners: Image numbers of their M partners.
        partner_view: For each transform, M values.
        mixing: For each mixing, M values.
    """

    view: list[Sequence[Any]]
    mixed: list[int]
    partners: list[Any]
    partner_view: list[Sequence[Any]]
    mixing: list[Sequence[Any]]


@dataclass(frozen=True)
class _Row:
    view: Sequence[Any]
    partner: Any = None
    partner_view: Sequence[Any] = ()
    mixing: Sequence[Any] = ()


def read_columns(params: list[Any], names: list[str], mixings: list[str]) -> Columns:
    """Group parameters by transform.

    Args:
        params: One list or dictionary per reinforcement.
        names: Transforms of a view that have parameters, in ml-dr's order.
        mixings: Transforms that mix two views, in ml-dr's order.

    Raises:
        ArchiveError: The parameters do not have ml-dr's structure.
    """
    kinds = set(map(type, params))
    if kinds == {list}:
        width = len(names) + len(mixings) + bool(mixings)
        if set(map(len, params)) != {width}:
            raise ArchiveError(
                f"its parameters have {sorted(set(map(len, params)))} entries, but the "
                f"configuration's transforms ({', '.join([*names, *mixings])}) have {width}"
            )
        if not mixings:
            return Columns(list(zip(*params, strict=True)), [], [], [[] for _ in names], [])
        rows = [_from_list(one, len(names)) for one in params]
    elif kinds == {dict}:
        _check_names(params, {*names, *mixings})
        rows = [_from_dict(one, names, mixings) for one in params]
    else:
        raise ArchiveError("its parameters are neither lists nor dictionaries")
    mixed = [number for number, row in enumerate(rows) if any(m is not None for m in row.mixing)]
    return Columns(
        _transpose([row.view for row in rows], len(names)),
        mixed,
        [rows[number].partner for number in mixed],
        _transpose([rows[number].partner_view for number in mixed], len(names)),
        _transpose([rows[number].mixing for number in mixed], len(mixings)),
    )


def _check_names(params: list[dict[str, Any]], expected: set[str]) -> None:
    """Raise unless the dictionaries have parameters of exactly these transforms."""
    for names in set(map(frozenset, params)):
        if names - _WITHOUT_PARAMETERS != expected:
            raise ArchiveError(
                f"its parameters are those of {', '.join(sorted(names)):.200}, but the "
                f"configuration's transforms with parameters are {', '.join(sorted(expected))}"
            )


def _transpose(rows: list[Sequence[Any]], count: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [[] for _ in range(count)]


def _from_list(params: list[Any], count: int) -> _Row:
    partner, view, mixing = params[0], params[1 : count + 1], params[count + 1 :]
    if partner is None:
        if any(value is not None for value in mixing):
            raise ArchiveError("a reinforcement is mixed but has no partner")
        return _Row(view)
    pairs = [_pair(value) for value in view]
    return _Row([p[0] for p in pairs], partner, [p[1] for p in pairs], mixing)


def _from_dict(params: dict[str, Any], names: list[str], mixings: list[str]) -> _Row:
    pairs = [_pair(params[name]) for name in names]
    mixing = [params[name] for name in mixings]
    return _Row([p[0] for p in pairs], params.get("id2"), [p[1] for p in pairs], mixing)


def _pair(value: Any) -> Sequence[Any]:
    if value is None:
        return None, None
    if type(value) not in (list, tuple) or len(value) != 2:
        raise ArchiveError(f"a reinforcement has {value!r:.80}, expected a pair of parameters")
    pair: Sequence[Any] = value
    return pair
