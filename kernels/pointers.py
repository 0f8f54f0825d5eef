"""Pointers: writes 64-bit integers of the host, such as the addresses of this step's gradients, into a device table.

    table[i] = values[i]        int64, in place

The values travel as arguments of a launch, 32 at a time. So there is no host buffer that would have to be pinned, kept
alive and waited for, and a CUDA graph that has captured the launch writes the same values at every replay.

Bytes: 256 a launch. The cost is that of launching, a few microseconds of the host (not measured).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .variant import Variant

GROUP = 32
"""Values that one launch writes."""

_VALUES = [f"v{i}" for i in range(GROUP)]


# With no type given, Triton would compile once for every pattern of which values fit into 32 bits.
@triton.jit(do_not_specialize=_VALUES)
def poke_kernel(p_table,
                v0: tl.int64, v1: tl.int64, v2: tl.int64, v3: tl.int64, v4: tl.int64, v5: tl.int64, v6: tl.int64,
                v7: tl.int64, v8: tl.int64, v9: tl.int64, v10: tl.int64, v11: tl.int64, v12: tl.int64, v13: tl.int64,
                v14: tl.int64, v15: tl.int64, v16: tl.int64, v17: tl.int64, v18: tl.int64, v19: tl.int64,
                v20: tl.int64, v21: tl.int64, v22: tl.int64, v23: tl.int64, v24: tl.int64, v25: tl.int64,
                v26: tl.int64, v27: tl.int64, v28: tl.int64, v29: tl.int64, v30: tl.int64, v31: tl.int64):  # fmt: skip
    values = (v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15, v16, v17, v18, v19, v20, v21, v22,
              v23, v24, v25, v26, v27, v28, v29, v30, v31)  # fmt: skip
    for i in tl.static_range(32):
        tl.store(p_table + i, values[i])


def empty_table(size: int, device: torch.device) -> Tensor:
    """Zeros `(n,)` int64, n being `size` rounded up to a multiple of `GROUP`, and not 0: groups are written whole."""
    return torch.zeros(max(-(-size // GROUP), 1) * GROUP, dtype=torch.int64, device=device)


def poke_(table: Tensor, values: list[int], before: list[int] | None = None) -> None:
    """Writes `values` into the first places of `table`, in place; one launch for each group of `GROUP` values.

    Args:
        table: `(n,)` int64, from `empty_table`.
        before: the values that these places hold, so that groups that have not changed need no launch; None where
            they are not known, and every group is written.
    """
    for i in range(0, len(values), GROUP):
        group = values[i : i + GROUP]
        if before is None or group != before[i : i + GROUP]:
            poke_kernel[1,](table[i:], *group, *[0] * (GROUP - len(group)), **POKE.options)


def poke_cost(values: list[int]) -> tuple[int, int]:
    """Bytes and flops, where every group is written."""
    return -(-len(values) // GROUP) * GROUP * 8, 0


POKE = Variant(
    kernel=poke_kernel, signature={"p_table": "*i64:16"} | dict.fromkeys(_VALUES, "i64"), num_warps=1, num_stages=1
)


def variants() -> Iterator[Variant]:
    yield POKE
