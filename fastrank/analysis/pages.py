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
def _system(name: str) -> Any:
    """A function of the system's library; None where there is none of that name, as on Windows."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


def give_back(tensor: Tensor) -> None:
    """Give back the whole pages of a tensor that nobody has written to, if they are a file's: they are read again
    where they are looked at again. Anything else stays as it is.

    What is a file's is asked of Linux: the same call would empty other memory. Elsewhere nothing is done.
    """
    advise, advice = _system("madvise"), getattr(mmap, "MADV_DONTNEED", None)
    if advise is None or advice is None or tensor.device.type != "cpu" or tensor.numel() == 0:
        return
    begin = tensor.data_ptr()
    end = begin + 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) * tensor.itemsize
    first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    for start, stop in _of_files(first, last):
        advise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), advice)


def give_back_heap() -> None:
    """Give back what C's heap holds of memory that was freed, where it has a function for that (glibc's has): it keeps
    what it has for later, up to 32 MiB at a place."""
    trim = _system("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


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
