"""Holdings: what each rank declares about its piece of each matrix, and whether all of that fits together.

Every element of a matrix has to be in a piece of some rank. Ranks with equal pieces are replicas of each other; pieces
that overlap without being equal are refused, because nothing says then which of them counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..weights import Span

Spans = tuple[Span, ...]

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of an element of each dtype that a matrix may have."""

Group = tuple[int, tuple[int, ...]]
"""Index of a matrix, and the ranks that declare the same part of it: replicas."""

MOST_NAMED = 8
"""So many ranks are named in an error; of more, the first ones."""


class Holding(NamedTuple):
    """What a rank declares about one matrix.

    Args:
        name: of the matrix, the same on all ranks.
        shape: of the whole matrix.
        dtype: "float16", "bfloat16", "float32" or "float64".
        spans: the piece of the matrix that the rank has; `()` where it has nothing of it.
        tag: anything else that has to be the same on all ranks that declare the matrix. It is compared, and no more.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    spans: Spans
    tag: str = ""


@dataclass(frozen=True, eq=False)
class Cut:
    """How a matrix is cut, and which ranks have each of its pieces.

    Attributes:
        pieces: the different ones, in the order of the first rank that has each. Each element is in exactly one. A
            matrix without elements has one empty piece, which every rank has that declares the matrix.
        holders: `(pieces, replicas)`, the ranks that have each, in order. Where a piece has fewer replicas than
            another one, its last holder is repeated.
        sizes: `(pieces,)`, the elements of each.
    """

    pieces: tuple[Spans, ...]
    holders: NDArray[np.int64]
    sizes: NDArray[np.int64]


class Declared(NamedTuple):
    """A matrix on which all ranks that declare it agree."""

    name: str
    shape: tuple[int, int]
    dtype: str
    cut: Cut


def agreed(holdings: Sequence[Sequence[Holding]], last: Collection[str] = ()) -> list[Declared]:
    """The matrices that ranks declare, in the order that all of them give to these.

    Where all ranks declare the same names in the same order, that is the order. Elsewhere, as with the stages of a
    pipeline, it is the natural order of the names, where digits count as numbers.

    Args:
        holdings: those of each rank, by rank.
        last: names of the matrices that come behind all others (default: none).

    Raises:
        ValueError: ranks differ about a matrix, no rank has some part of one, or pieces overlap.
    """
    on_ranks: dict[str, dict[int, Holding]] = {}
    for rank, own in enumerate(holdings):
        for holding in own:
            declared = on_ranks.setdefault(holding.name, {})
            if rank in declared:
                raise ValueError(f"rank {rank} declares {holding.name!r} twice: give each matrix a name of its own")
            declared[rank] = holding
    names = list(on_ranks)  # rank 0 comes first
    if any([holding.name for holding in own] != names for own in holdings):
        names.sort(key=lambda name: (name in last, *_natural(name)))
    cuts: dict[Any, Cut] = {}  # layers of one kind are cut alike
    return [_declared(name, on_ranks[name], cuts) for name in names]


def groups_of(holdings: Sequence[Sequence[Holding]], names: Sequence[str]) -> list[Group]:
    """The replicas among what the ranks have declared, in a list for each of them, of the matrices of these names."""
    places = {name: i for i, name in enumerate(names)}
    found: dict[tuple[int, Spans], list[int]] = {}
    for rank, own in enumerate(holdings):
        for holding in own:
            if holding.name in places and any(span.numel for span in holding.spans):
                found.setdefault((places[holding.name], holding.spans), []).append(rank)
    return [(i, tuple(ranks)) for (i, _), ranks in sorted(found.items()) if len(ranks) > 1]


def _natural(name: str) -> tuple[list[Any], str]:
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))], name


def _declared(name: str, on_ranks: dict[int, Holding], cuts: dict[Any, Cut]) -> Declared:
    rank, first = next(iter(on_ranks.items()))
    same = first.shape, first.dtype, first.tag
    for other, holding in on_ranks.items():
        if (holding.shape, holding.dtype, holding.tag) != same:
            _refuse_difference(rank, first, other, holding)
    if first.dtype not in ITEMSIZE:
        raise ValueError(f"{name!r} is {first.dtype}: a matrix that is shared is {', '.join(ITEMSIZE)}")
    key = first.shape, tuple(on_ranks), tuple(holding.spans for holding in on_ranks.values())
    if key not in cuts:
        cuts[key] = _cut(name, *key)
    return Declared(name, (int(first.shape[0]), int(first.shape[1])), first.dtype, cuts[key])


def _cut(name: str, shape: tuple[int, int], ranks: Sequence[int], declared: Sequence[Spans]) -> Cut:
    if 0 in shape:
        return Cut(((),), np.array([ranks], dtype=np.int64), np.zeros(1, dtype=np.int64))
    holders: dict[Spans, list[int]] = {}
    for rank, piece in zip(ranks, declared, strict=True):
        filled = tuple(span for span in piece if span.numel)
        if filled:
            holders.setdefault(filled, []).append(rank)
    _check(name, shape, holders)
    most = max(map(len, holders.values()))
    return Cut(
        tuple(holders),
        np.array([own + own[-1:] * (most - len(own)) for own in holders.values()], dtype=np.int64),
        np.array([sum(span.numel for span in piece) for piece in holders], dtype=np.int64),
    )


def _check(name: str, shape: tuple[int, int], holders: dict[Spans, list[int]]) -> None:
    """Raises a ValueError unless each element is in exactly one span of one piece.

    The edges of all spans divide the matrix into cells. How many spans a cell is in follows from their corners: a
    span adds one from its first row and column on, and takes it back behind its last ones.
    """
    spans = np.array([span for piece in holders for span in piece], dtype=np.int64).reshape(-1, 4)
    ranks = [own[0] for piece, own in holders.items() for _ in piece]
    top, bottom, left, right = spans.T
    outside = (top < 0) | (top > bottom) | (bottom > shape[0]) | (left < 0) | (left > right) | (right > shape[1])
    if outside.any():
        at = int(outside.argmax())
        span = Span(*spans[at].tolist())
        raise ValueError(f"rank {ranks[at]} declares {span} of {name!r}, which is {shape[0]} x {shape[1]}")
    rows, cols = np.unique([0, shape[0], *top, *bottom]), np.unique([0, shape[1], *left, *right])
    changes = np.zeros((len(rows), len(cols)), dtype=np.int32)
    for i, j, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        np.add.at(changes, (rows.searchsorted(i), cols.searchsorted(j)), sign)
    covered = changes.cumsum(0).cumsum(1)[:-1, :-1]
    if (covered > 1).any():
        i, j = np.argwhere(covered > 1)[0]
        row, col = int(rows[i]), int(cols[j])
        inside = (top <= row) & (row < bottom) & (left <= col) & (col < right)
        _refuse_overlap(name, row, col, [ranks[k] for k in inside.nonzero()[0]])
    if (covered == 0).any():
        _refuse_hole(name, shape, rows, cols, covered == 0, sorted(r for own in holders.values() for r in own))


def _refuse_difference(rank: int, one: Holding, other: int, two: Holding) -> NoReturn:
    what = next(what for what in ("shape", "dtype", "tag") if getattr(one, what) != getattr(two, what))
    differing = f"{one.name!r} is" if what == "tag" else f"the {what} of {one.name!r} is"
    raise ValueError(
        f"{differing} {getattr(one, what)} on rank {rank}, and {getattr(two, what)} on rank {other}: a matrix has to "
        "be the same on all ranks that have its name; give different ones, such as those of the stages of a pipeline, "
        "names of their own"
    )


def _refuse_overlap(name: str, row: int, col: int, ranks: Sequence[int]) -> NoReturn:
    first, second = ranks[:2]
    if first == second:
        raise ValueError(f"the piece of {name!r} on rank {first} has the element in row {row} and column {col} twice")
    raise ValueError(
        f"ranks {first} and {second} both have the element in row {row} and column {col} of {name!r}, "
        "but their pieces are not the same: pieces have to be equal, or to have no element in common"
    )


def _refuse_hole(
    name: str,
    shape: tuple[int, int],
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    missing: NDArray[np.bool_],
    ranks: Sequence[int],
) -> NoReturn:
    """Names the first rectangle of cells that no rank has."""
    i, j = (int(index) for index in np.argwhere(missing)[0])
    wide = next((k for k in range(j, len(cols) - 1) if not missing[i, k]), len(cols) - 1)
    high = next((k for k in range(i, len(rows) - 1) if not missing[k, j:wide].all()), len(rows) - 1)
    where = _range("row", int(rows[i]), int(rows[high]))
    if (j, wide) != (0, len(cols) - 1):
        where = f"{_range('column', int(cols[j]), int(cols[wide]))} of {where}"
    raise ValueError(
        f"{where} of {name!r}, which is {shape[0]} x {shape[1]}, are on no rank; the rest is on {_listed(ranks)}: "
        "all ranks that have a part of it have to make the tracker"
    )


def _range(what: str, start: int, end: int) -> str:
    return f"{what} {start}" if end == start + 1 else f"{what}s {start} to {end - 1}"


def _listed(ranks: Iterable[int]) -> str:
    named = [str(rank) for rank in ranks]
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return f"ranks {', '.join(named[:MOST_NAMED])}{more}" if named else "none either"
