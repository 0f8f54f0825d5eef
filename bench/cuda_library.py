"""Libraries of CUDA that PyTorch brings along, for functions of theirs that it has no way to."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Wrapped = TypeVar("Wrapped")


def found(name: str, wrap: Callable[[ctypes.CDLL], Wrapped], what: str = "") -> Wrapped:
    """What `wrap` makes of the library `name`: of the one that is loaded, or of one of NVIDIA's wheels.

    Raises:
        OSError: there is none that `wrap` takes; an AttributeError of it means that the library lacks a function.
    """
    wheels = sorted(Path(torch.__file__).parents[1].glob(f"nvidia/*/lib/{name}"))
    for place in (name, *map(str, wheels)):
        try:
            return wrap(ctypes.CDLL(place))
        except (OSError, AttributeError):  # not there, or older than the functions
            continue
    raise OSError(f"{name}{what} was not found")
