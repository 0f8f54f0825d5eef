"""SGD's step of many parameters on a CPU in one pass over memory, compiled by Numba.

For each element w of a parameter, with gradient g and momentum b, as PyTorch's for-loop has it, and to the same bits:

    g <- (-1 if maximize else 1) * g + weight_decay * w
    b <- g in the first step, (momentum * b) + (1 - dampening) * g in later ones
    w <- w - lr * (g + momentum * b if nesterov else b)

Each line rounds once where the machine has a fused multiplication and addition, but for the product in brackets, which
is rounded first. Without momentum there is no b, and g takes its place.

Reads w, g and b and writes w and b: 20 bytes an element in FP32, 12 without momentum; at most 9 flops an element. So
memory bounds it. PyTorch's for-loop takes up to four passes, and a call for each pass and parameter.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite.ir import FunctionType
from numba import carray
from numba.extending import intrinsic

from .keep import kept
from .memory import fetch_add, pointer
from .openmp import in_team

SHARE = 2**15
"""Elements that a thread steps at a time, from 10 us on: the most that others wait for the last one."""
LEAST = 2**16
"""Elements for each thread at least. PyTorch has half as many."""
TASK = np.dtype(
    [(name, np.int64) for name in ("pointers", "meta", "hyper", "slots", "tickets", "share", "first", "last")]
    + [(name, np.int64) for name in ("elements", "nesterov", "maximize")]
    + [("momentum", np.float64), ("keep", np.float64)]
)
"""What a launch is told: addresses of the tables, and of a counter; elements of a share; rows; and the options."""


class Work(NamedTuple):
    """Rows of the tables that one launch steps: they share a dtype and a group's options."""

    dtype: Any
    """`numpy.float32` or `numpy.float64`."""
    first: int
    last: int
    """One more than the last row."""
    elements: int
    """Of all their parameters."""
    momentum: float
    dampening: float
    nesterov: bool
    maximize: bool


def sgd_(pointers: np.ndarray, meta: np.ndarray, hyper: np.ndarray, work: Work, threads: int) -> None:
    """Update the parameters and momentum buffers of some rows in place.

    Args:
        pointers: (P, 3) int64, addresses of each parameter, its gradient and its momentum buffer, which all have one
            memory layout without gaps.
        meta: (P, 4) int64, for each parameter the number of elements of a slice, the number of slices, the row of
            `hyper` of its first slice, and whether its momentum buffer is to be made from the gradient.
        hyper: (slots, 2) FP64: lr and weight decay of each slice.
        work: which rows, and their options.
        threads: most that may share the work. No bit depends on them.
    """
    hyper, tickets = hyper.astype(work.dtype), np.zeros(1, np.int64)
    tables = (pointers.ctypes.data, meta.ctypes.data, hyper.ctypes.data, len(hyper), tickets.ctypes.data)
    flags = (work.nesterov, work.maximize, work.momentum, 1 - work.dampening)
    task = np.array((*tables, SHARE, work.first, work.last, work.elements, *flags), TASK)
    in_team(_steps(work.dtype).ctypes, task.ctypes.data, threads if work.elements >= 2 * LEAST else 1)


@intrinsic
def _fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the machine can."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = args[0].type
        function = builder.module.declare_intrinsic("llvm.fmuladd", [number], FunctionType(number, [number] * 3))
        return builder.call(function, args)

    return a(a, a, a), generate


@cache
def _steps(dtype: Any) -> Any:
    """The function that takes shares of the rows' elements, counted one row after another, until there is none."""

    @kept
    def steps(address):
        task = carray(address, (1,), TASK)[0]
        pointers = carray(pointer(task.pointers), (task.last, 3), np.int64)
        meta = carray(pointer(task.meta), (task.last, 4), np.int64)
        hyper = carray(pointer(task.hyper), (task.slots, 2), dtype)
        tickets = carray(pointer(task.tickets), (1,), np.int64)
        momentum, keep = dtype(task.momentum), dtype(task.keep)
        nesterov, maximize = task.nesterov != 0, task.maximize != 0
        while True:
            start = fetch_add(tickets, 0, 1) * task.share
            stop = min(start + task.share, task.elements)
            if start >= stop:
                break
            offset = 0
            for row in range(task.first, task.last):
                numel, slices, slot, fresh = meta[row, 0], meta[row, 1], meta[row, 2], meta[row, 3]
                for i in range(slices):
                    begin, end = max(start - offset, 0), min(stop - offset, numel)
                    offset += numel
                    if begin >= end:
                        continue
                    skipped, length = (i * numel + begin) * hyper.itemsize, end - begin
                    param = carray(pointer(pointers[row, 0] + skipped), length, dtype)
                    grad = carray(pointer(pointers[row, 1] + skipped), length, dtype)
                    buffer = carray(pointer(pointers[row, 2] + skipped), length, dtype)
                    lr, decay = hyper[slot + i, 0], hyper[slot + i, 1]
                    for k in range(length):
                        direction = -grad[k] if maximize else grad[k]
                        if decay != 0:
                            direction = _fma(param[k], decay, direction)
                        if momentum != 0:
                            moved = direction if fresh else _fma(direction, keep, buffer[k] * momentum)
                            buffer[k] = moved
                            direction = _fma(moved, momentum, direction) if nesterov else moved
                        param[k] = _fma(direction, -lr, param[k])

    return steps
