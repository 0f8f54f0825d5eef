"""Record: writes what a step has measured into the next row of a buffer.

    place = min(written, capacity - 1)
    steps[place] = step,  ring[place] = values            in place

The rows are counted on the device, so that a CUDA graph that has captured the launch writes the next one at every
replay. One program copies BLOCK values. Bytes: 16 a value.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .variant import Variant

BLOCK = 1024
"""Values that a program copies."""


@triton.jit(do_not_specialize=["CAPACITY", "SIZE"])
def record_kernel(p_steps, p_ring, p_written, p_step, p_values, CAPACITY, SIZE, BLOCK: tl.constexpr):
    place = tl.minimum(tl.load(p_written), CAPACITY - 1)  # what the host did not expect must not end up outside
    if tl.program_id(0) == 0:
        tl.store(p_steps + place, tl.load(p_step))
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_ring + place * SIZE + o, tl.load(p_values + o, mask=o < SIZE, other=0.0), mask=o < SIZE)


def record_(steps: Tensor, ring: Tensor, written: Tensor, step: Tensor, values: Tensor) -> None:
    """Writes one row. The last place takes all rows that are too many.

    Args:
        steps: `(capacity,)` int64, and ring `(capacity, ...)` FP64: the buffers.
        written: `(1,)` int64, how many rows have been written before; whoever calls counts this one.
        step: 0-d int64, the number of the row.
        values: FP64, of the shape of a row, contiguous.
    """
    tensors = {"p_steps": steps, "p_ring": ring, "p_written": written, "p_step": step, "p_values": values}
    launch(RECORD, (-(-values.numel() // BLOCK),), {**tensors, "CAPACITY": len(steps), "SIZE": values.numel()})


def record_cost(size: int) -> tuple[int, int]:
    """Bytes and flops of a row of `size` values."""
    return 16 * size, 0


_INTEGERS = dict.fromkeys(("p_steps", "p_written", "p_step"), "*i64:16")
RECORD = Variant(
    kernel=record_kernel,
    signature=_INTEGERS | {"p_ring": "*fp64:16", "p_values": "*fp64:16", "CAPACITY": "i32", "SIZE": "i32"},
    constexprs={"BLOCK": BLOCK},
    num_stages=1,
)


def variants() -> Iterator[Variant]:
    yield RECORD
