"""Checks of arguments that more than one room makes: an error names the argument."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_count(value: Any, name: str, smallest: int) -> int:
    """`value` as an int of at least `smallest`.

    Raises:
        TypeError: not an integer. ValueError: too small.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, not {value!r}")
    if value < smallest:
        raise ValueError(f"{name}: must be at least {smallest}, not {value}")
    return int(value)
