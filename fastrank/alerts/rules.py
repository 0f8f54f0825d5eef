"""The rules that come with fastrank. Each certain: bounds decide, not an estimate between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rule import Action, Bools, Rows, Rule

AGAIN = 1.1
"""A rule of a threshold ceases to hold where the rank is certainly a tenth above it, so that a rank which wavers at the
threshold makes one alert."""
BUCKETS = 32  # that the window of `halved` is made of


class below(Rule):
    """The rank of a matrix is certainly below a share of its full rank: `rank_upper < share * min(rows, cols)`.

    It holds until `rank_lower` is at least 1.1 times that, or the full rank. Rows that are not finite are left out.

    Args:
        share: above 0 and at most 1 (default 0.1).
        action, names: see `Rule`.
        name: see `Rule` (default `"below_<share>"`).

    Raises:
        TypeError, ValueError: `share` is not such a number; as `Rule`.
    """

    def __init__(
        self,
        share: float = 0.1,
        action: Action | Sequence[Action] = "warn",
        *,
        names: str | Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(share, bool) or not isinstance(share, int | float | np.integer | np.floating):
            raise TypeError(f"alerts, below: share: expected a number, not {share!r}")
        if not 0 < share <= 1:
            raise ValueError(f"alerts, below: share: must be above 0 and at most 1, not {share}")
        super().__init__(name or f"below_{share:g}", action, names=names)
        self.share = float(share)

    def holds(self, rows: Rows) -> tuple[Bools, Bools]:
        finite, limit = ~rows.nonfinite, self.share * rows.full
        return (rows.upper < limit) & finite, (rows.lower >= np.minimum(AGAIN * limit, rows.full)) & finite

    def says(self, name: str, rank: int | None, full_rank: int) -> str:
        return f"{name}: the rank, {rank} of {full_rank}, is below {100 * self.share:g} % of the full rank"


class nonfinite(Rule):
    """A matrix holds NaN or Inf. It holds until the matrix is finite again.

    Args:
        action, names: see `Rule`.
        name: see `Rule` (default `"nonfinite"`).

    Raises:
        TypeError, ValueError: as `Rule`.
    """

    def __init__(
        self,
        action: Action | Sequence[Action] = "warn",
        *,
        names: str | Sequence[str] | None = None,
        name: str = "nonfinite",
    ) -> None:
        super().__init__(name, action, names=names)

    def holds(self, rows: Rows) -> tuple[Bools, Bools]:
        return rows.nonfinite, ~rows.nonfinite

    def says(self, name: str, rank: int | None, full_rank: int) -> str:
        return f"{name}: the matrix holds NaN or Inf"


class halved(Rule):
    """The rank of a matrix is certainly at most half of what it was within the last steps: `rank_upper <= r / 2`, where
    r is the largest `rank_lower` of the window.

    It holds until `rank_lower` is more than 0.55 r, as it is at the latest when the window has left the fall behind.
    Rows that are not finite are left out. The window consists of up to 32 parts, the oldest of which is forgotten as a
    whole: what halves in more steps than `within` is never an alert, what halves in 93 % of them or less always is. A
    window of at most 32 steps is exact.

    Args:
        within: a number of steps, not of rows (default 1000).
        action, names: see `Rule`.
        name: see `Rule` (default `"halved_in_<within>"`).

    Raises:
        TypeError, ValueError: `within` is not an integer of at least 1; as `Rule`.
    """

    def __init__(
        self,
        within: int = 1000,
        action: Action | Sequence[Action] = "warn",
        *,
        names: str | Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(within, bool) or not isinstance(within, int | np.integer):
            raise TypeError(f"alerts, halved: within: expected an integer, not {within!r}")
        if within < 1:
            raise ValueError(f"alerts, halved: within: must be at least 1, not {within}")
        super().__init__(name or f"halved_in_{within}", action, names=names)
        self.within = int(within)
        self._width = -(-self.within // BUCKETS)  # steps of a bucket
        self._kept = (
            self.within + 1
        ) // self._width - 1  # buckets before that of a row whose steps are all near enough
        self._bucket: int | None = None  # the newest
        self._here: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # the largest rank of each matrix in it; -1: none
        self._earlier: dict[int, NDArray[np.int64]] = {}  # the same of each bucket before it
        self._before = self._here  # the largest of all these

    def holds(self, rows: Rows) -> tuple[Bools, Bools]:
        lower = np.where(rows.nonfinite, -1, rows.lower).astype(np.int64)
        largest = np.empty_like(lower)
        buckets = rows.steps // self._width
        starts = [0, *(np.flatnonzero(np.diff(buckets)) + 1).tolist(), len(buckets)]
        for start, end in pairwise(starts):
            largest[start:end] = self._move_to(int(buckets[start]), lower[start:end])
        finite, positive = ~rows.nonfinite, largest > 0
        return (2 * rows.upper <= largest) & positive & finite, (
            (2 * rows.lower > AGAIN * largest) | ~positive
        ) & finite

    def _move_to(self, bucket: int, lower: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each of some rows of one bucket the largest ranks of its window; these rows are remembered."""
        none = np.full_like(lower[0], -1)
        if bucket != self._bucket:
            if self._bucket is not None:
                self._earlier[self._bucket] = self._here
            self._earlier = {old: ranks for old, ranks in self._earlier.items() if bucket - self._kept <= old < bucket}
            self._before = np.max([none, *self._earlier.values()], axis=0)
            self._bucket, self._here = bucket, none
        here = np.maximum(np.maximum.accumulate(lower, axis=0), self._here)
        self._here = here[-1]
        largest: NDArray[np.int64] = np.maximum(here, self._before)
        return largest

    def says(self, name: str, rank: int | None, full_rank: int) -> str:
        return f"{name}: the rank, {rank} of {full_rank}, has halved within {self.within} steps"

    def state_dict(self) -> dict[str, Any]:
        earlier = {str(bucket): ranks.tolist() for bucket, ranks in self._earlier.items()}
        return {"within": self.within, "earlier": earlier, "bucket": self._bucket, "here": self._here.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("within") != self.within:  # whose buckets are others
            state = {}
        self._bucket = state.get("bucket")
        self._here = np.array(state.get("here", ()), dtype=np.int64)
        self._earlier = {int(at): np.array(ranks, dtype=np.int64) for at, ranks in state.get("earlier", {}).items()}
        self._before = np.max([np.full_like(self._here, -1), *self._earlier.values()], axis=0)
