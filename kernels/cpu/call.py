"""Call: the work on a chunk of matrices as one call of a function of C, in all threads that there are."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray

from .keep import kept
from .memory import fetch_add, pointer
from .openmp import in_team
from .work import FIELDS, PHASES, run

COME, OPEN, COUNTERS = range(2 * PHASES, 2 * PHASES + 3)
"""Counters besides those of the phases: of threads that have come, and of matrices as `run` tells them."""
TASK = np.dtype(
    [("exact", np.float64)]
    + [(name, np.int64) for name in ("first", "last", "bands", "matrices", "tolerances", "columns")]
    + [(name, np.int64) for name in ("grams", "vectors", "threads", "share")]
    + [(f"at_{name}", np.int64) for name in ("counters", "bands", "table", "found", "scale", "kinds", "given")]
    + [(f"at_{name}", np.int64) for name in ("counts", "bounds", "status", "values", "grams", "vectors", "scratch")]
)
"""What `run` is told: sizes and addresses of its arrays. `threads`: how many may take part; `share`: of scratch, for
each."""


@cache
def _works() -> Any:
    """`run` as a function of C. Numba keeps it on disk, and finds it there by its own bytes and the values in it:
    `sources` is one, so that it is compiled anew when any file of this room has changed."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    sources = int.from_bytes(hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()[:7])

    @kept
    def works(address):
        t = carray(address, (1,), TASK)[0]
        b, tolerances = t.matrices, t.tolerances
        counters = carray(pointer(t.at_counters), (COUNTERS,), np.int64)
        thread = fetch_add(counters, COME, 1)
        if thread >= t.threads:
            return
        open_ = run(
            t.first if sources else 0,
            t.last,
            t.exact,
            counters,
            carray(pointer(t.at_bands), (t.bands, 3), np.int64),
            carray(pointer(t.at_table), (b, FIELDS), np.int64),
            carray(pointer(t.at_found), (b, 4), np.float64),
            carray(pointer(t.at_scale), (b,), np.float64),
            carray(pointer(t.at_kinds), (tolerances, 2), np.float64),
            carray(pointer(t.at_given), (b, tolerances, 2), np.float64),
            carray(pointer(t.at_counts), (b, tolerances, 2), np.int64),
            carray(pointer(t.at_bounds), (b, tolerances, 2), np.int64),
            carray(pointer(t.at_status), (b, tolerances), np.int8),
            carray(pointer(t.at_values), (b, t.columns), np.float64),
            carray(pointer(t.at_grams), (t.grams,), np.float64),
            carray(pointer(t.at_vectors), (t.vectors,), np.float64),
            carray(pointer(t.at_scratch + 8 * t.share * thread), (t.share,), np.float64),
        )
        fetch_add(counters, OPEN, open_)

    return works


class Work:
    """Work on a chunk of matrices, in at most so many threads. The arrays are those of `run`, by name, contiguous.

    scratch: for all threads.
    """

    def __init__(self, threads: int, exact: float, scratch: np.ndarray, **arrays: np.ndarray) -> None:
        self._counters = np.zeros(COUNTERS, np.int64)
        self._arrays = {"counters": self._counters, "scratch": scratch, **arrays}  # which have to stay where they are
        self._task = np.zeros(1, TASK)
        task = self._task[0]
        for name, array in self._arrays.items():
            task[f"at_{name}"] = array.ctypes.data
        task["exact"], task["threads"], task["share"] = exact, threads, len(scratch) // threads
        task["matrices"], task["columns"] = arrays["values"].shape
        for name, of in (("tolerances", "kinds"), ("grams", "grams"), ("vectors", "vectors"), ("bands", "bands")):
            task[name] = len(arrays[of])
        self._address = self._task.ctypes.data

    def run(self, first: int, last: int, team: int) -> int:
        """See the function `run`. team: how many threads there are, more of which may be called than take part."""
        task = self._task[0]
        task["first"], task["last"] = first, last
        self._counters[:] = 0
        in_team(_works().ctypes, self._address, 1 if task["threads"] == 1 else team)
        return int(self._counters[OPEN])
