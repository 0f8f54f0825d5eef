"""OpenMP: PyTorch's own threads. After an operation they go on spinning for a while, so that no other thread gets their
cores; and they take up work at once, where waking one takes a tenth of a millisecond.

As in PyTorch's operations, all wait for the slowest, so that little work is better done in one.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


@cache
def _parallel() -> Any:
    """The function that has all threads call another one; None where there is no OpenMP in the process."""
    try:
        found = ctypes.CDLL(None).GOMP_parallel  # GNU's, which Intel's and LLVM's libraries have as well
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return found


def in_team(function: Any, argument: int, threads: int) -> None:
    """Call a function of C of one address in each of so many threads, this one among them, and wait for all.

    All of PyTorch's are best: OpenMP ends those that a call leaves out, and starts others when they are asked for.
    Where there is no OpenMP it is called in this thread only: it has to do then whatever others have not taken.
    """
    parallel = _parallel() if threads > 1 else None
    if parallel is None:
        function(argument)
    else:
        parallel(ctypes.cast(function, ctypes.c_void_p), argument, threads, 0)
