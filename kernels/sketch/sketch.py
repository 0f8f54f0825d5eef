"""Sketch: Y = W V for the matrices of one dtype and one k of a ragged batch, in FP64 or by INT8, in one pass over W.

    Y (r, k) = W (r, n) V (n, k)     W FP32, BF16 or FP16, any strides; V FP32; Y FP64
    norm = ||W||_F^2                 FP64; not finite where W is not

Which side of a matrix V belongs to changes with every step, and the step is counted on the device, so that a CUDA graph
can be replayed: there are two tables, one for each side, and a program takes its row from the one whose turn it is. A
program multiplies a strip of rows with a chunk of columns; the chunks of a strip are added up in a fixed order by
`sketch.sketch_gram`: two runs give the same bits.

FP64, because the proof (`fastrank.reference.sketch`, the twin) is one of differences: W V in TF32x3 would be off by
1e-7 ||W||_F at best and by n times that at worst, where t^2 has to be known to 1e-6 ||W||_F^2; products of FP32 numbers
are exact in FP64, and the tensor cores make them.

Bytes: W once, V once a strip from L2, 8 k r a chunk of Y. Flops: 2 r n k, FP64. Floor on sm_90 for 1e8 FP32 parameters:
93 us of an H200's copy bandwidth (4.3 TB/s), 48 us of its FP64 tensor cores (67 TFLOP/s) at k = 16, 382 us at k = 128:
from k = 32 on arithmetic is the bound, and in the fused step (20 bytes a parameter, 465 us) from k = 128 on. Sides that
alternate have half the flops of both at once, and need no sums across programs but those of chunks. A thread reads 16
bytes at a time where the matrix allows it (`strip.in_vectors`). Times are not measured.

INTEGERS, for sm_86, sm_89, sm_103 and sm_120, which have a 64th of the FP32 rate for FP64: Y = W' V' exactly, but for
the FP64 sums over tiles of 32 columns. V' is V in units of 2^-22, and its Gram is B; W' is W to 2^-31 of the largest of
32 elements of a row. Proofs allow for W' in place of W by 5.3e-9 ||W||_F^2, where tau^2 is 1e-6 of it at the paper's
tolerance (`fastrank.reference.integer_sketch`, the twin). This allowance is known beforehand: to measure what is cut
off would take two FP64 operations more an element, beside four at k = 16. Squares for the norm are those of W, in FP64.
An element takes 24 k INT8 operations. For an RTX 4090 (128 multiprocessors, 2.52 GHz; a clock: 2 FP64, 1024 INT8 and 64
integer operations, 128 instructions, 3.1 bytes) these are times in ms at 1e8 parameters, by the instructions of the
fused step that Triton 3.6 makes for sm_89:

    k                                              16     32     64    128
    FP64 instructions an element                    4      6      6     10      2 for its square, 2 k / 32 and copies
    their time                                   0.62   0.93   0.93   1.55      FP64 products alone: 2.5 to 20
    integer instructions an element                66     90     76    110
    their time                                   0.32   0.44   0.37   0.53
    products on tensor cores, with copies        0.12   0.23   0.23   0.47
    all instructions an element                    92    127    112    165
    time to issue them                           0.22   0.31   0.27   0.40
    20 bytes an element, of the fused step        2.0    2.0    2.0    2.0
    4 bytes an element, of the sketch alone       0.4    0.4    0.4    0.4

So the fused step should be bound by its bytes, and the sketch alone by FP64; on a B300, which reads 28 bytes a clock,
both should be bound by FP64, at k = 128 by INT8. That is counted, and not measured. Sums of pairs of FP32 numbers would
take 10 instructions a product, 3.1 ms at k = 128, and lose the lower halves of products below 2^-126.

Tried, by what the compiler makes of it:
    sm_80, sm_90     BLOCK 64, BLOCK_K 32, 4 warps: 168 registers at k = 16, and sm_80 spills 12 bytes; 8 warps: 104 and
                     none; k = 32 with 8 warps spills 24 bytes for half precision; BLOCK_K 16, 4 warps: none
    sm_86, sm_89     BLOCK 64, BLOCK_K 32 spills up to 35 kB at k = 128, and takes 255 registers at k = 32; what sm_120
                     has: at most 235, none
    sm_100, sm_120   BLOCK 64 fails under Triton 3.6 and spills 2 kB; BLOCK 32, BLOCK_K 32, 8 warps: none up to k = 32;
                     BLOCK_K 16 above that, with 4 warps at k = 64 and 8 at k = 128: none
    INTEGERS         BLOCK 64 spills up to 8 kB, with INT8 products in tensor memory on sm_100; BLOCK 32, with
                     mma.m16n8k32 everywhere: none, if loops keep what does not change in them (`disable_licm`; 40 bytes
                     otherwise). Rows are multiplied twice at k = 16 and 32, in two pairs of warps, because the sums of
                     twelve products are one chain; each added up as INT64 by itself: also, and 13 % more instructions
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial as partial_
from itertools import product
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..count import TRITON_TYPES
from ..device import capability, chosen, wide_tiles
from ..launch import launch
from ..limits import KS
from ..variant import Variant, arguments
from .strip import (
    extent,
    in_vectors,
    lines,
    multiply,
    multiply_slices,
    no_squares,
    place,
    start_of,
    store_product,
    tile_of,
)
from .table import COLUMNS, STRIDE_COLUMN, STRIDE_ROW, Pass


class Config(NamedTuple):
    """Launch configuration."""

    block: int
    """Rows of a strip."""
    block_k: int
    """Columns of W a step."""
    num_warps: int
    num_stages: int
    maxnreg: int | None = None


def config(k: int, capability: tuple[int, int], integers: bool = False) -> Config:
    if integers:
        return Config(32, 32, 4 if k <= 32 else 8, 1, 255 if k in (32, 64) or capability[0] == 10 else None)
    if not wide_tiles(capability):
        return Config(32, 32 if k <= 32 else 16, 4 if k == 64 else 8, 1)
    return {32: Config(64, 16, 4, 2), 64: Config(64, 16, 8, 2)}.get(k, Config(64, 32, 8, 2))


@triton.jit
def _sum_with(address, p_basis, o_row, rows, stride_row, stride_column, begin, end, UNIT: tl.constexpr,
              N: tl.constexpr, DTYPE: tl.constexpr, INTEGERS: tl.constexpr, BLOCK: tl.constexpr,
              BLOCK_K: tl.constexpr, K: tl.constexpr):  # fmt: skip
    p = start_of(address, DTYPE, N)
    rows, stride_row, stride_column, begin, end = lines(rows, stride_row, stride_column, begin, end, UNIT, N)
    m_row = o_row < rows
    total = tl.zeros((BLOCK, K), tl.float64)
    squares = no_squares(UNIT, BLOCK, BLOCK_K)
    for i_k in tl.range(begin, end, BLOCK_K, disable_licm=INTEGERS):
        o_k = i_k + tl.arange(0, BLOCK_K).to(tl.int64)
        offsets, mask = tile_of(o_row, o_k, stride_row, stride_column, m_row, end, UNIT)
        b_w = tl.load(p + offsets, mask=mask, other=0.0)
        tile = b_w.to(tl.float32)
        if INTEGERS:
            total, squares = multiply_slices(tile, p_basis, o_k, end, total, squares, UNIT, K)
        else:
            total, squares = multiply(tile, p_basis, o_k, end, total, squares, UNIT,
                                      b_w.dtype.primitive_bitwidth == 16, K)  # fmt: skip
    return total, tl.sum(squares)


@triton.jit(do_not_specialize=["MATRICES"])
def sketch_kernel(p_pointers, p_table, p_tiles, p_step, p_bases, p_partial, p_norms, MATRICES, DTYPE: tl.constexpr,
                  INTEGERS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, K: tl.constexpr):  # fmt: skip
    i_matrix, i_strip, i_chunk, p_row, _side = place(p_table, p_tiles, p_step, tl.program_id(0), MATRICES)
    if i_matrix < 0:
        return
    rows, o_row, begin, end, p_basis = extent(p_row, p_bases, i_strip, i_chunk, BLOCK)
    stride_row, stride_column = tl.load(p_row + STRIDE_ROW), tl.load(p_row + STRIDE_COLUMN)
    address = tl.load(p_pointers + i_matrix)
    N: tl.constexpr = 128 // DTYPE.primitive_bitwidth
    if in_vectors(address, stride_row, stride_column, rows, tl.load(p_row + COLUMNS), N):
        if stride_column == 1:
            total, norm = _sum_with(address, p_basis, o_row, rows, stride_row, 1, begin, end, "column", N, DTYPE,
                                    INTEGERS, BLOCK, BLOCK_K, K)  # fmt: skip
        else:
            total, norm = _sum_with(address, p_basis, o_row, rows, 1, stride_column, begin, end, "row", N, DTYPE,
                                    INTEGERS, BLOCK, BLOCK_K, K)  # fmt: skip
    else:
        total, norm = _sum_with(address, p_basis, o_row, rows, stride_row, stride_column, begin, end, "none", 1,
                                DTYPE, INTEGERS, BLOCK, BLOCK_K, K)  # fmt: skip
    store_product(p_row, p_partial, p_norms, i_strip, i_chunk, rows, o_row, total, norm, K)


def sketch_(scratch: Mapping[str, Tensor], made: Pass, pointers: Tensor, integers: bool = False) -> None:
    """Writes `partial`, the products of each chunk, and `norms`, one a program.

    Args:
        scratch: every other tensor of the kernel by its name without `p_`; `step` is 0-d int64, and its parity the side
            whose turn it is.
        made: the matrices that are multiplied.
        pointers: `(b,)` int64, the address of each matrix of the table, of which those of `made` are read.
        integers: whether the product is made from INT8 slices (default False: in FP64).
    """
    c = config(made.k, capability(made.tiles.device), integers)
    variant = sketch_variant(made.dtype, made.k, c, integers)
    given = arguments(sketch_kernel, {**scratch, "tiles": made.tiles, "pointers": pointers})
    launch(variant, (made.tiles.shape[1],), {**given, "MATRICES": scratch["table"].shape[1]})


def sketch_cost(shapes: Sequence[tuple[int, int]], k: int, itemsize: int) -> tuple[int, int]:
    """Bytes and flops: W and V read, Y written, once."""
    return sum(m * n * itemsize + k * (4 * n + 8 * m) for m, n in shapes), sum(2 * m * n * k for m, n in shapes)


def sketch_variant(
    dtype: torch.dtype, k: int, c: Config, integers: bool = False, architectures: tuple[str, ...] = ()
) -> Variant:
    return Variant(
        kernel=sketch_kernel,
        signature={
            "p_pointers": "*i64:16", "p_table": "*i64:16", "p_tiles": "*i32:16", "p_step": "*i64:16",
            "p_bases": "*fp32:16", "p_partial": "*fp64:16", "p_norms": "*fp64:16", "MATRICES": "i32",
        },
        constexprs={
            "DTYPE": TRITON_TYPES[dtype], "INTEGERS": integers, "BLOCK": c.block, "BLOCK_K": c.block_k, "K": k,
        },
        num_warps=c.num_warps,
        num_stages=c.num_stages,
        maxnreg=c.maxnreg,
        label=str(dtype).removeprefix("torch."),
        architectures=architectures,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    """FP16 is left out: it is BF16 but for one conversion."""
    for k, integers in product(KS, (False, True)):
        for c, architectures in chosen(partial_(config, k, integers=integers)).items():
            for dtype in (torch.bfloat16, torch.float32):
                yield sketch_variant(dtype, k, c, integers, architectures)
