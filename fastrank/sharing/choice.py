"""Choice: which matrices are sketched at a step, and with how many columns.

All ranks have to choose the same, without asking each other. So the choice follows from nothing but the plan and the
rows of the steps before, as all ranks have got them: each number of these comes from one rank alone, so that everybody
has the same bits of it. What a rank has measured itself is never looked at before it has been shared.

A matrix is sketched once its rank is so low that few enough columns hold it, and if that costs less than to have it
travel. But what a sketch can prove depends on all that lies below the threshold together, which no row tells. So it is
tried: a matrix that `TRIES` sketches in a row have left open gets more columns, and one for which more do not pay
rests, each time for twice as many measurements. What is open travels at the same step, hence a try costs time only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from ..measuring import basis_sizes
from ..reference.sketch import noise_columns
from .costs import sketch_pays
from .traffic import Placement, Sketch

ROOM = 4
"""Columns beside the noise that a basis has at least beyond the rank."""
SHARE = 0.8
"""Fewer columns than now are chosen only if this share of them is enough: a new basis takes some steps to be good."""
TRIES = 3
"""Sketches in a row that leave a matrix open, until it gets more columns or rests. The one of noise does not count."""
REST = 16
"""Measurements of the first rest."""
LONGEST = 1024
"""Measurements of the longest."""


@dataclass
class _State:
    """What is known of a matrix.

    Attributes:
        columns: of its basis; 0: it is not sketched.
        made: sketches with this basis so far. number: sketches of the matrix so far.
        left, decided: sketches in a row, up to the last one, that have left it open, or not.
        least: columns that it gets at least, because fewer have left it open.
        resting: measurements until it is tried again. patience: of the next rest, and how many sketches in a row have
            to decide until `least` is made less.
    """

    columns: int = 0
    made: int = 0
    number: int = 0
    left: int = 0
    decided: int = 0
    least: int = 0
    resting: int = 0
    patience: int = REST


class Choice:
    """Chooses from step to step.

    Args:
        matrices: those that may be sketched, by index.
    """

    def __init__(self, matrices: Mapping[int, Placement]) -> None:
        self._matrices = {i: matrix for i, matrix in matrices.items() if _can_be_sketched(matrix)}
        self._states = {i: _State() for i in self._matrices}
        self._pays = cache(lambda i, columns: sketch_pays(self._matrices[i], columns))

    def __bool__(self) -> bool:
        """Whether any matrix can ever be sketched."""
        return bool(self._matrices)

    def now(self) -> list[Sketch]:
        """What is to be sketched at the coming step, in the order of the matrices."""
        return [
            Sketch(i, state.columns, state.made % 2, state.number, state.made == 0)
            for i, state in self._states.items()
            if state.columns
        ]

    def look(self, ranks: Sequence[int], sketched: Sequence[Sketch], left: Collection[int]) -> None:
        """Take note of a step.

        Args:
            ranks: of all matrices of the plan, the largest of all tolerances; -1 of one that is not finite.
            sketched: what was sketched. left: indices of those of them that were left open.
        """
        for i, _, _, _, fresh in sketched:
            self._states[i].made += 1
            self._states[i].number += 1
            if not fresh:
                self._states[i].left = self._states[i].left + 1 if i in left else 0
                self._states[i].decided = self._states[i].decided + 1 if i not in left else 0
        for i, state in self._states.items():
            state.resting = max(0, state.resting - 1)
            if not state.resting:
                self._choose(i, state, ranks[i])

    def begin_anew(self) -> None:
        """Forget everything but how many sketches there were, from which noise follows."""
        self._states = {i: _State(number=state.number) for i, state in self._states.items()}

    def _choose(self, i: int, state: _State, rank: int) -> None:
        if state.left >= TRIES:
            state.least, state.left = 2 * state.columns, 0
        elif state.decided >= state.patience and state.least:
            state.least, state.decided = state.least // 2, 0
        columns = self._columns(i, state, rank)
        if not columns and state.least:
            state.resting, state.patience = state.patience, min(2 * state.patience, LONGEST)
            state.least = 0
        if columns != state.columns:
            state.columns, state.made, state.left, state.decided = columns, 0, 0, 0

    def _columns(self, i: int, state: _State, rank: int) -> int:
        """The fewest columns that may do; 0: none do, or none pay."""
        for k in basis_sizes(self._matrices[i].order):
            share = 1.0 if k >= state.columns else SHARE
            if k >= state.least and 0 <= rank <= (k - noise_columns(k)) * share - ROOM:
                return k if 2 * k <= self._matrices[i].order and self._pays(i, k) else 0
        return 0


def _can_be_sketched(matrix: Placement) -> bool:
    """Whether sketches of this matrix prove anything: products of FP64 numbers would be rounded. That there are no more
    parts than the long side has rows is among what `sketching` says of rounding."""
    return matrix.way != "local" and matrix.dtype != "float64" and len(matrix.parts) <= max(matrix.shape)
