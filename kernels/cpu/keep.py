"""Keep: kernels that Python calls, which Numba keeps on disk for the next process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numba import njit


def kept(function: Callable[..., Any]) -> Any:
    """Compile a kernel when it is first called, or load it; where no folder can be written it is compiled each time."""
    compiled = partial(njit, nogil=True, error_model="numpy")
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # Numba has looked for a folder beside the file, and for one of the user's
        return compiled()(function)
