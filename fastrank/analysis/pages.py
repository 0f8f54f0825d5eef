"""Pages: memory of a process into which the system has read parts of a file, given back when they have been used.

A tensor of a mapped file is read when it is looked at, page by page, and the pages then count as memory of this process
until the system needs them for something else. Giving them back keeps what an analysis holds to what it works on.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

MAPS = Path("/proc/self/maps")


@cache
def _madvise() -> Any:
    """The system's function; None where there is none, as on Windows."""
    try:
        found = ctypes.CDLL(None, use_errno=True).madvise
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found


def give_back(tensor: Tensor) -> None:
    """Give back the whole pages of a tensor that nobody has written to, if they are a file's: they are read again
    where they are looked at again. Anything else stays as it is.

    What is a file's is asked of Linux: the same call would empty other memory. Elsewhere nothing is done.
    """
    advice, size = getattr(mmap, "MADV_DONTNEED", None), tensor.untyped_storage().nbytes()
    if advice is None or _madvise() is None or tensor.device.type != "cpu" or size == 0:
        return
    begin = tensor.data_ptr()
    end = begin + 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) * tensor.itemsize
    first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    for start, stop in _of_files(first, last):
        _madvise()(start, stop - start, advice)


def _of_files(begin: int, end: int) -> list[tuple[int, int]]:
    """The parts of a range of addresses, if it is not empty, that are mappings of files."""
    if begin >= end:
        return []
    try:
        lines = MAPS.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        addresses, _, _, _, inode, *path = line.split(maxsplit=5)
        start, stop = (int(x, 16) for x in addresses.split("-"))
        if start < end and begin < stop and inode != "0" and path and path[0].startswith("/"):
            found.append((max(start, begin), min(stop, end)))
    return found
