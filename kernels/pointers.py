"""Pointers: writes 64-bit integers of the host, such as the addresses of this step's gradients, into a device table.

    table[start + i stride] = values[i]        int64, in place

The values travel as arguments of a launch, 64 at a time. So there is no host buffer that would have to be pinned, kept
alive and waited for, and a CUDA graph that has captured the launch writes the same values at every replay.

Bytes: 512 a launch. The cost is that of launching. Triton's JIT looks at every argument, which takes it 130 us of the
host; so it is asked once for each device, because no value of an argument makes it choose another kernel. From then on
a launch takes the host 6 us, of which reading the arguments takes 5.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Compiled, current_stream, launch, watched
from .variant import Variant

GROUP = 64
"""Values that one launch writes."""

_VALUES = [f"v{i}" for i in range(GROUP)]

_compiled: dict[torch.device, Compiled | None] = {}
"""The kernel for each device, once Triton's JIT was asked for it; None in Triton's interpreter."""


# With no type given, Triton would compile once for every pattern of which values fit into 32 bits.
@triton.jit(do_not_specialize=["START", "STRIDE", *_VALUES])
def poke_kernel(p_table, START: tl.int64, STRIDE: tl.int64,
                v0: tl.int64, v1: tl.int64, v2: tl.int64, v3: tl.int64, v4: tl.int64, v5: tl.int64, v6: tl.int64,
                v7: tl.int64, v8: tl.int64, v9: tl.int64, v10: tl.int64, v11: tl.int64, v12: tl.int64, v13: tl.int64,
                v14: tl.int64, v15: tl.int64, v16: tl.int64, v17: tl.int64, v18: tl.int64, v19: tl.int64, v20: tl.int64,
                v21: tl.int64, v22: tl.int64, v23: tl.int64, v24: tl.int64, v25: tl.int64, v26: tl.int64, v27: tl.int64,
                v28: tl.int64, v29: tl.int64, v30: tl.int64, v31: tl.int64, v32: tl.int64, v33: tl.int64, v34: tl.int64,
                v35: tl.int64, v36: tl.int64, v37: tl.int64, v38: tl.int64, v39: tl.int64, v40: tl.int64, v41: tl.int64,
                v42: tl.int64, v43: tl.int64, v44: tl.int64, v45: tl.int64, v46: tl.int64, v47: tl.int64, v48: tl.int64,
                v49: tl.int64, v50: tl.int64, v51: tl.int64, v52: tl.int64, v53: tl.int64, v54: tl.int64, v55: tl.int64,
                v56: tl.int64, v57: tl.int64, v58: tl.int64, v59: tl.int64, v60: tl.int64, v61: tl.int64, v62: tl.int64,
                v63: tl.int64):  # fmt: skip
    values = (v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15, v16, v17, v18, v19, v20, v21, v22,
              v23, v24, v25, v26, v27, v28, v29, v30, v31, v32, v33, v34, v35, v36, v37, v38, v39, v40, v41, v42, v43,
              v44, v45, v46, v47, v48, v49, v50, v51, v52, v53, v54, v55, v56, v57, v58, v59, v60, v61, v62,
              v63)  # fmt: skip
    p_value = p_table + START  # goes from place to place: 64 products would take an interpreter most of its time
    for i in tl.static_range(64):
        tl.store(p_value, values[i])
        p_value += STRIDE


def empty_table(size: int, device: torch.device, columns: int = 1) -> Tensor:
    """Zeros `(n,)` int64 with room for `size` values in rows of `columns`: groups are written whole, and n is not 0."""
    rows = -(-size // columns)
    return torch.zeros(max(-(-rows // GROUP), 1) * GROUP * columns, dtype=torch.int64, device=device)


def poke_(table: Tensor, values: list[int], before: list[int] | None = None, columns: int = 1) -> None:
    """Writes `values` into the first places of `table`, in place; one launch for each group of `GROUP` values.

    Args:
        table: `(n,)` int64, from `empty_table` with the same `columns`.
        before: the values that these places hold, so that groups that have not changed need no launch; None where
            they are not known, and every group is written.
        columns: groups are parts of columns of the table, seen as rows of that many, because columns change alone.
    """
    columns = 1 if before is None else columns
    for column in range(columns):
        own, old = values[column::columns], None if before is None else before[column::columns]
        for i in range(0, len(own), GROUP):
            group = own[i : i + GROUP]
            if old is None or group != old[i : i + GROUP]:
                _write(table, i * columns + column, columns, group + [0] * (GROUP - len(group)))


def _write(table: Tensor, start: int, stride: int, group: list[int]) -> None:
    compiled = _compiled.get(table.device)
    if compiled is None or watched():
        words = dict(zip(_VALUES, group, strict=True))
        made = launch(POKE, (1,), {"p_table": table, "START": start, "STRIDE": stride, **words})
        _compiled[table.device] = made.compiled
    else:
        compiled.bound(current_stream())(table.data_ptr(), start, stride, *group)


def poke_cost(values: list[int]) -> tuple[int, int]:
    """Bytes and flops, where every group is written."""
    return -(-len(values) // GROUP) * GROUP * 8, 0


POKE = Variant(
    kernel=poke_kernel,
    signature={"p_table": "*i64:16"} | dict.fromkeys(["START", "STRIDE", *_VALUES], "i64"),
    num_warps=1,
    num_stages=1,
)


def variants() -> Iterator[Variant]:
    yield POKE
