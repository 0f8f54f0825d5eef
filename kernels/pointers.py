"""Pointers: 64-bit integers, such as the addresses of this step's gradients, from the host into a table on the device.

They travel as arguments of a launch, 32 at a time: there is no copy from host memory to wait for, or that would have to
be pinned and kept, and a CUDA graph that has captured the launch writes the same values whenever it is replayed.
Bytes: 256 a launch. What a launch costs is the launch, a few microseconds of the host (not measured).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .variant import Variant

GROUP = 32
"""Values of a launch."""

_VALUES = [f"v{i}" for i in range(GROUP)]


# The type is given, or Triton would compile anew for each pattern of values that fit 32 bits.
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
    """Zeros `(n,)` int64, at least one and at least `size` of them: groups are written whole."""
    return torch.zeros(max(-(-size // GROUP), 1) * GROUP, dtype=torch.int64, device=device)


def poke_(table: Tensor, values: list[int], before: list[int] | None = None) -> None:
    """Writes `values` into the first places of a table from `empty_table`.

    before: what these places hold, so that groups that have not changed are left out; None: nobody knows.
    """
    for i in range(0, len(values), GROUP):
        group = values[i : i + GROUP]
        if before is None or group != before[i : i + GROUP]:
            poke_kernel[1,](table[i:], *group, *[0] * (GROUP - len(group)), **POKE.options)


def poke_cost(values: list[int]) -> tuple[int, int]:
    """Bytes and flops: all groups written."""
    return -(-len(values) // GROUP) * GROUP * 8, 0


POKE = Variant(
    kernel=poke_kernel, signature={"p_table": "*i64:16"} | dict.fromkeys(_VALUES, "i64"), num_warps=1, num_stages=1
)


def variants() -> Iterator[Variant]:
    yield POKE
