"""Checks of arguments that several packages share. The error message names the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_count(value: Any, name: str, smallest: int) -> int:
    """Return `value` as an int if it is an integer of at least `smallest`; errors call it `name`.

    Raises:
        TypeError: not an integer. ValueError: too small.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, not {value!r}")
    if value < smallest:
        raise ValueError(f"{name}: must be at least {smallest}, not {value}")
    return int(value)


def check_share(value: Any, name: str) -> float:
    """Return `value` as a float if it is a number above 0 and at most 1; errors call it `name`.

    Raises:
        TypeError: not a number. ValueError: out of that range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name}: expected a number, not {value!r}")
    if not 0 < value <= 1:
        raise ValueError(f"{name}: must be above 0 and at most 1, not {value}")
    return float(value)


def check_seconds(value: Any, name: str) -> float:
    """Return `value` as a float if it is a number above 0, which may be infinite; errors call it `name`.

    Raises:
        TypeError: not a number. ValueError: not above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name}: expected a number of seconds, not {value!r}")
    if not value > 0:
        raise ValueError(f"{name}: must be above 0 seconds, not {value}")
    return float(value)


def from_numpy(array: np.ndarray[Any, Any], name: str) -> Tensor:
    """An array of NumPy as a tensor, which shares its memory where PyTorch can; errors call it `name`.

    Raises:
        TypeError: of a dtype that PyTorch does not have.
    """
    if array.dtype.kind not in "fiubc" or array.dtype.itemsize > 16:
        raise TypeError(f"{name}: dtype {array.dtype} is not supported; convert to float32 or float64")
    # torch takes neither a foreign byte order nor strides that are negative or not a whole number of elements, as in a
    # field of a structured array, and it warns of read-only memory.
    array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise TypeError(f"{name}: dtype {array.dtype} is not supported; convert to float32 or float64") from error
