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

from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite.ir import FunctionType
from numba.extending import intrinsic

from .keep import kept
from .threads import together

SHARE = 2**17
"""Elements that a thread steps at a time, from 40 us on: the most that others wait for one that is kept from a core."""
SHARES = 4
"""Of a thread at least. Less is not worth waking one, and on a busy machine waiting for it."""


class Work(NamedTuple):
    """Rows of the tables that one launch steps: they share a dtype and a group's options."""

    first: int
    last: int
    """One more than the last row."""
    elements: int
    """Of all their parameters."""
    options: tuple[Any, ...]
    """What `options_of` has made of the group's options."""


def options_of(dtype: Any, momentum: float, dampening: float, nesterov: bool, maximize: bool) -> tuple[Any, ...]:
    """A group's options as the compiled step takes them; `dtype` is `numpy.float32` or `numpy.float64`."""
    return dtype(momentum), dtype(1 - dampening), bool(nesterov), bool(maximize)


def sgd_(pointers: np.ndarray, meta: np.ndarray, hyper: np.ndarray, work: Work, threads: int) -> None:
    """Update the parameters and momentum buffers of some rows in place.

    Args:
        pointers: (P, 3) int64, addresses of each parameter, its gradient and its momentum buffer, which all have one
            memory layout without gaps.
        meta: (P, 4) int64, for each parameter the number of elements of a slice, the number of slices, the row of
            `hyper` of its first slice, and whether its momentum buffer is to be made from the gradient.
        hyper: (slots, 2) of the parameters' dtype: lr and weight decay of each slice.
        work: which rows, and their options.
        threads: most that may share the work. No bit depends on them.
    """
    first, last, elements, options = work
    threads = min(threads, elements // (SHARES * SHARE))
    if threads < 2:
        _step(pointers, meta, hyper, first, last, 0, elements, *options)
        return
    shares = deque((start, min(start + SHARE, elements)) for start in range(0, elements, SHARE))

    def take(thread: int) -> None:
        with suppress(IndexError):  # no share is left
            while True:
                _step(pointers, meta, hyper, first, last, *shares.popleft(), *options)

    together(take, threads)


@intrinsic
def _fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the machine can."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = args[0].type
        function = builder.module.declare_intrinsic("llvm.fmuladd", [number], FunctionType(number, [number] * 3))
        return builder.call(function, args)

    return a(a, a, a), generate


@intrinsic
def _pointer(typing: Any, address: Any, like: Any) -> Any:
    """`address` as a pointer to numbers of the dtype of the array `like`."""
    signature = numba.types.CPointer(like.dtype)(address, like)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return signature, generate


@kept
def _step(pointers, meta, hyper, first, last, start, stop, momentum, keep, nesterov, maximize):
    """Elements `start` to `stop` - 1 of the rows' elements, counted one row after another."""
    offset = 0
    for row in range(first, last):
        numel, slices, slot, fresh = meta[row, 0], meta[row, 1], meta[row, 2], meta[row, 3]
        for i in range(slices):
            begin, end = max(start - offset, 0), min(stop - offset, numel)
            offset += numel
            if begin >= end:
                continue
            skipped, length = (i * numel + begin) * hyper.itemsize, end - begin
            param = numba.carray(_pointer(pointers[row, 0] + skipped, hyper), length)
            grad = numba.carray(_pointer(pointers[row, 1] + skipped, hyper), length)
            buffer = numba.carray(_pointer(pointers[row, 2] + skipped, hyper), length)
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
