"""Workspace: memory that is used again from call to call, so that the system need not fill it with zeros each time."""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray

KEPT = 8 * 2**20
"""Bytes of an array that is kept for a later call at most; a larger one is the caller's alone."""


class Workspace:
    """Arrays of FP64 numbers on the host, by name. Their contents are undefined.

    Args:
        most: bytes that an array may have to be kept (default: any number).
    """

    def __init__(self, most: float = float("inf")) -> None:
        self._arrays: dict[str, NDArray[np.float64]] = {}
        self._most = most

    def array(self, name: str, size: int) -> NDArray[np.float64]:
        """At least `size` numbers, the same memory as last time under this name if that was large enough."""
        known = self._arrays.get(name)
        if known is not None and len(known) >= size:
            return known
        made: NDArray[np.float64] = torch.empty(size, dtype=torch.float64, device="cpu").numpy()
        if made.nbytes <= self._most:
            self._arrays[name] = made
        return made


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.workspace = Workspace(KEPT)


_here = _OfThread()


def workspace_of_thread() -> Workspace:
    """The workspace for whoever needs it only until this thread's next call."""
    return _here.workspace
