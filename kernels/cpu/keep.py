"""Keep: kernels that Numba keeps on disk for the next process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numba import cfunc, types


def kept(function: Callable[..., Any]) -> Any:
    """Compile a function of one address as one of C, or load it; where no folder can be written it is compiled by each
    process."""
    compiled = partial(cfunc, types.void(types.voidptr), error_model="numpy")
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # Numba has looked for a folder beside the file, and for one of the user's
        return compiled()(function)
