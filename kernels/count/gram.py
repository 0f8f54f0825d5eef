"""Gram: the smaller-side Gram of every matrix of a ragged batch, in one launch for each dtype of W.

    G = W W^T / scale^2        W (r, n), r <= n, any strides and dtype; G FP64, of order r rounded up to PAD
    trace(G) = ||W||_F^2 / scale^2

The eigenvalues of G are the squared singular values of W, which `inertia.ldl` counts above a threshold. Products are
accumulated in FP64; the twin, `fastrank.reference.grams`, says why. A NaN or Inf in W needs no check: it reaches the
trace through the sums.

One program computes one BLOCK x BLOCK tile of G, on or below the diagonal, over one chunk of W's columns. A matrix with
many columns and few tiles is cut into several chunks: `gram_` writes the sums over the first into G and those over the
others into a workspace, and `count.finish` adds them up.

Bytes: W (r n elements) at least once from memory, and once for each of the r / BLOCK tiles of a row of G, from L2 where
W fits there; 8 r^2 / 2 of G. Flops: r^2 n, FP64; whole tiles on the diagonal make that r^2 n (1 + BLOCK / r). On sm_90
the dot becomes DMMA (m8n8k4 by Triton 3.9, m16n8k16 by 3.6), so the tensor cores' 67 TFLOP/s are the roof of both;
ResNet-18 needs 4.9 GFLOP: 73 us. On sm_86, sm_89 and sm_120 Triton uses no tensor instruction.

Roofline of a tile's step of 32 columns of FP32, in cycles of a multiprocessor of sm_90, from the instructions of the
main loop that Triton 3.6 makes and from assumed rates (128 FP64 products, 16 conversions, 128 bytes of shared memory a
cycle). Operands are converted to FP64 in registers, by every warp that uses them, so that fewer warps convert less:

                           products   conversions   shared memory   instructions
    8 warps of 16 x 32         1024           768             512            408
    4 warps of 32 x 32         1024           512             384            380

A step needs 16 KiB of W, 16 bytes a cycle, where L2 is assumed to deliver 24. A warp issues in order, and waits between
its copies, conversions and products; what it leaves free another one takes, if it does not wait at the same barrier.
Hence 4 warps, whose registers leave room for two programs. A simulation of that loop (in order, with these rates) says
1406 cycles with 8 warps and 1300 with twice 4; on sm_80 2453 and 2198 of 2048; in half precision, which is not copied
ahead, 1872 and 1509. Measured on an H200: 136 us for ResNet-18, as that simulation has it.

Tried, by what the compiler makes of it:
    sm_80, sm_90     BLOCK 64, BLOCK_K 32, 8 warps: at most 182 registers, no spill, but one program a multiprocessor;
                     held to 128 registers: up to 16 bytes spilled. 4 warps: at most 246, no spill; FP64 spills 8 bytes
                     unless BLOCK_K is 16. BLOCK_K 16 held to 168 registers: three programs, simulated as good as two;
                     FP64 spills 16 bytes. 128 x 64, not built: 8 warps with 32 x 32 each have room for one program
    sm_86, sm_89     BLOCK 64 spills up to 1.6 kB for half precision; BLOCK 32: at most 188 registers, no spill
    sm_100           BLOCK 64 fails under Triton 3.6, which puts FP64 products of 64 rows into tensor memory
    sm_120           BLOCK 64 spills 192 bytes for half precision; BLOCK 32: none
    TF32x3 products  not built: their error, 2^-22 ||W||_F^2, is a quarter of the paper's tau^2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device import capability, chosen, wide_tiles
from ..inertia.table import (
    CHUNK,
    COLUMNS,
    FIELDS,
    ORDER,
    POINTER,
    ROWS,
    STRIDE_COLUMN,
    STRIDE_ROW,
    Shape,
)
from ..launch import launch
from ..limits import DTYPES
from ..variant import Variant
from .product import TRITON_TYPES, start_of_chunk, sum_products


class Config(NamedTuple):
    """Launch configuration."""

    block: int
    num_warps: int
    num_stages: int


def config(capability: tuple[int, int]) -> Config:
    """Depends on the architecture alone: the shapes of the matrices only change the list of work."""
    return Config(64, 4, 2) if wide_tiles(capability) else Config(32, 8, 2)


TILE_FIELDS = tl.constexpr(4)
"""Fields of an entry of the list of work: matrix, row of tiles, column of tiles, chunk of columns."""


@triton.jit
def gram_kernel(p_table, p_tiles, p_decided, p_scale, p_gram, p_partial, DTYPE: tl.constexpr, SCALED: tl.constexpr,
                BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """One tile of one Gram, over one chunk of W's columns."""
    p_tile = p_tiles + tl.program_id(0) * TILE_FIELDS
    i_matrix, i_row, i_column, i_chunk = (tl.load(p_tile + 0), tl.load(p_tile + 1), tl.load(p_tile + 2),
                                          tl.load(p_tile + 3))  # fmt: skip
    if tl.load(p_decided + i_matrix) != 0:
        return
    p_row = p_table + i_matrix * FIELDS
    rows, columns = tl.load(p_row + ROWS), tl.load(p_row + COLUMNS)
    stride_row, stride_column = tl.load(p_row + STRIDE_ROW), tl.load(p_row + STRIDE_COLUMN)
    order, chunk = tl.multiple_of(tl.load(p_row + ORDER), 32), tl.load(p_row + CHUNK)
    p = tl.load(p_row + POINTER).to(tl.pointer_type(DTYPE))
    factor = 1.0 / tl.load(p_scale + i_matrix) if SCALED else tl.full((), 1.0, tl.float64)
    # 64-bit from here on: a matrix may have more than 2^31 elements.
    o_a, o_b = i_row.to(tl.int64) * BLOCK + tl.arange(0, BLOCK), i_column.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    begin = i_chunk * chunk
    end = tl.minimum(begin + chunk, columns)

    total = sum_products(p, o_a, o_b, stride_row, stride_column, rows, begin, end, factor, BLOCK, BLOCK_K)
    offsets = o_a[:, None] * order + o_b[None, :]
    m_tile = (o_a < order)[:, None] & (o_b < order)[None, :]
    p_out = start_of_chunk(p_row, i_chunk, order, p_gram, p_partial)
    tl.store(p_out + offsets, total, mask=m_tile)


PROGRAMS = 264
"""Two for each multiprocessor of an H200: most that a matrix is cut into."""


def chunk_of(shape: Shape, block: int) -> int:
    """Columns that one program sums for a matrix: a multiple of 32.

    A matrix is cut as long as all its programs run at once, so that none waits for a second round, and a chunk has at
    least 256 columns, 2 us of products, and 2 r: it costs a write and a read of its tile, 16 bytes an element, against
    the flops of its columns, and a large matrix has other tiles for the multiprocessors to make. An estimate of how
    long the programs of ResNet-18 take, 264 at a time, and of what their tiles cost at 3 TB/s: 153 us; 164 us with
    chunks of at least 512 columns alone, as many as make 264 programs or more. Not measured.
    """
    chunks = max(1, min(PROGRAMS // len(_triangle(shape.order, block)), shape.columns // max(256, 2 * shape.rows)))
    return -(-shape.columns // (chunks * 32)) * 32


def tiles_of(shapes: Sequence[Shape], ids: Sequence[int], chunks: Sequence[int], block: int) -> Tensor:
    """List of work `(programs, TILE_FIELDS)` int32 on the CPU for the matrices `ids`: their tiles, chunk by chunk.

    chunks: columns of a chunk of each of the `shapes`, from `chunk_of`.
    """
    listed = [torch.empty(0, TILE_FIELDS.value, dtype=torch.int32)]
    for i in ids:
        ends = torch.tensor([[i, 0, 0, c] for c in range(-(-shapes[i].columns // chunks[i]))], dtype=torch.int32)
        listed.append((ends[:, None] + _triangle(shapes[i].order, block)[None]).flatten(0, 1))
    return torch.cat(listed)


@cache
def _triangle(order: int, block: int) -> Tensor:
    across = -(-order // block)
    row, column = torch.tril_indices(across, across, dtype=torch.int32)
    zero = torch.zeros_like(row)
    return torch.stack([zero, row, column, zero], -1)


def gram_(
    gram: Tensor,
    partial: Tensor,
    table: Tensor,
    tiles: Tensor,
    decided: Tensor,
    scale: Tensor | None,
    dtype: torch.dtype,
) -> None:
    """Writes the tiles on and below the diagonal of Grams of matrices of one `dtype`.

    Args:
        gram: FP64 workspace, written: the sums over each matrix' first chunk of columns.
        partial: FP64 workspace, written: those over further chunks. `inertia.table.rows_of` gives both sizes.
        table: `(b, FIELDS)` int64, see `inertia.table`. tiles: `(programs, TILE_FIELDS)` int32, from `tiles_of`.
        decided: `(b,)` int32; where it is not 0 nothing is written for the matrix.
        scale: `(b,)` FP64 powers of two that matrices are divided by; None stands for 1.
    """
    variant = gram_variant(dtype, scale is not None, config(capability(gram.device)))
    given = {"p_table": table, "p_tiles": tiles, "p_decided": decided, "p_gram": gram, "p_partial": partial}
    launch(variant, (len(tiles),), {**given, "p_scale": gram if scale is None else scale})


def gram_cost(shapes: Sequence[Shape], itemsize: int) -> tuple[int, int]:
    """Bytes and flops: W read once, the lower triangle of G written once; half the products of a full W W^T."""
    moved = sum(s.rows * s.columns * itemsize + 4 * s.order**2 for s in shapes)
    return moved, sum(s.rows**2 * s.columns for s in shapes)


def gram_variant(dtype: torch.dtype, scaled: bool, c: Config, architectures: tuple[str, ...] = ()) -> Variant:
    block_k = 16 if dtype == torch.float64 else 32  # 128 bytes of a row of W at most, a line of the cache
    return Variant(
        kernel=gram_kernel,
        signature={
            "p_table": "*i64:16", "p_tiles": "*i32:16", "p_decided": "*i32:16", "p_gram": "*fp64:16",
            "p_partial": "*fp64:16", "p_scale": "*fp64:16",
        },
        constexprs={"DTYPE": TRITON_TYPES[dtype], "SCALED": scaled, "BLOCK": c.block, "BLOCK_K": block_k},
        num_warps=c.num_warps,
        num_stages=c.num_stages,
        label=str(dtype).removeprefix("torch."),
        architectures=architectures,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    for c, architectures in chosen(config).items():
        for dtype in DTYPES:
            yield gram_variant(dtype, dtype == torch.float64, c, architectures)
