"""Keep: kernels that Python calls, which Numba keeps on disk for the next process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numba import cfunc, njit, types

OPTIONS = {"error_model": "numpy"}


def kept(function: Callable[..., Any]) -> Any:
    """Compile a kernel when it is first called, or load it; where no folder can be written it is compiled each time."""
    return _kept(partial(njit, nogil=True, **OPTIONS), function)


def kept_for_c(function: Callable[..., Any]) -> Any:
    """The same, at once, for a kernel that is called as a function of C and takes one address."""
    return _kept(partial(cfunc, types.void(types.voidptr), **OPTIONS), function)


def _kept(compiled: Callable[..., Any], function: Callable[..., Any]) -> Any:
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # Numba has looked for a folder beside the file, and for one of the user's
        return compiled()(function)
