"""SGD sketch: SGD's step of tracked matrices, and the sketch of what it writes, in one pass over the weights.

    w, b <- descend(w, g, b)      see `step.descent`
    Y = W_new V,  ||W_new||_F^2   see `sketch.sketch`, whose tables, strips and chunks these are

The tile that the step has just made is rounded to the weights' dtype, stored, and multiplied from the registers: the
sketch costs no bytes of W. Bits of w and b are those of `step.sgd`, those of Y and the norm those of
`sketch` with the same configuration. Where `found_inf` is not 0, or a parameter has no gradient, nothing is written but
Y and the norm.

Bytes, FP32: 20 an element with momentum, V once a strip from L2, 8 k r a chunk of Y: 2 % more at k = 16 and 512 columns
a chunk. Flops: 7 an element in FP32, 2 k in FP64, or what `sketch.sketch` says of INTEGERS. Floor on sm_90 for 1e8
elements with momentum: 465 us of an H200's copy bandwidth against 48 us of its FP64 tensor cores at k = 16 and 382 us
at k = 128: bound by its bytes.

Measured on an H200, ResNet-18 with k = 16 and complete bases of 27 and 64: 260 us, where the step alone takes 57 us.
That was with 4 bytes an access, a sum over lanes a tile, BLOCK_K 16 and three stages: 282 instructions a thread for 4
elements, by 8 warps a multiprocessor, which waits for their issue, and reads of 64 bytes a line. Since then a thread
takes 16 bytes where it can, sums its own squares, and has 165 instructions for 8 elements; 128 registers leave room for
two programs, of which one reads, 24 KB, while the other multiplies. By that count, 330 cycles of issue for the 1650
that the memory takes for a tile, it would be bound by its bytes again. It takes 97 us; with eight matrices of 512 x
4608 it has 56 % of the memory's bandwidth, by ncu, and 15 warps a multiprocessor.

Tried, by what the compiler makes of it:
    BLOCK_K 32      one stage: 128 registers at k = 16 and 32; two stages: 174 of 8 warps, so one program; held to 128:
                    32 bytes spilled. 4 warps: 230
    BLOCK_K 64      244 registers at k = 16
    INTEGERS        4 warps: 168 registers of Triton 3.6 at k = 16 on sm_89, so three programs, and 213 to 246 at k =
                    32, so two, each with 12 KB on its way. Of a tile at k = 16, an RTX 4090 needs 6500 clocks for the
                    bytes, 2050 for FP64 and 730 to issue all. 8 warps at k = 16: 174, so one. On sm_100 and sm_120
                    ptxas spills 8 to 28 bytes to get down to 168 or 128, unless it is told that 255 will do
    a path more     for lines of rows that are no multiple of 16 bytes: 16 to 152 bytes spilled in half precision
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial as partial_
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..count import TRITON_TYPES
from ..device import capability, chosen
from ..launch import launch
from ..limits import KS
from ..sketch import sketch
from ..sketch.strip import (
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
from ..sketch.table import COLUMNS, OFFSET, STRIDE_COLUMN, STRIDE_ROW, Pass
from ..variant import Variant, arguments
from . import sgd
from .descent import BUFFER, DECAY, FRESH, GRADIENT, HYPER, LR, META, NUMEL, PARAMETER, POINTERS, SLOT, descend


def config(k: int, capability: tuple[int, int], integers: bool = False) -> sketch.Config:
    """Its strips are those of `sketch`, which goes on where a step is not fused."""
    like = sketch.config(k, capability, integers)
    if integers:
        return like._replace(maxnreg=255 if capability[0] >= 10 else None)
    return sketch.Config(like.block, 32 if k <= 32 else 16, 8, 1)


@triton.jit
def _step_with(weight, gradient, buffer, p_basis, o_row, rows, stride_row, stride_column, begin, end, go, lr, decay,
               momentum, undamped, scale, fresh, UNIT: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr,
               HAS_MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, MAXIMIZE: tl.constexpr, INTEGERS: tl.constexpr,
               BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, K: tl.constexpr):  # fmt: skip
    p_w, p_g, p_b = start_of(weight, DTYPE, N), start_of(gradient, DTYPE, N), start_of(buffer, DTYPE, N)
    rows, stride_row, stride_column, begin, end = lines(rows, stride_row, stride_column, begin, end, UNIT, N)
    m_row, m_go = o_row < rows, o_row < tl.where(go, rows, 0)
    total = tl.zeros((BLOCK, K), tl.float64)
    squares = no_squares(UNIT, BLOCK, BLOCK_K)
    for i_k in tl.range(begin, end, BLOCK_K, disable_licm=INTEGERS):
        o_k = i_k + tl.arange(0, BLOCK_K).to(tl.int64)
        offsets, mask = tile_of(o_row, o_k, stride_row, stride_column, m_row, end, UNIT)
        _, m_step = tile_of(o_row, o_k, stride_row, stride_column, m_go, end, UNIT)
        b_w = tl.load(p_w + offsets, mask=mask, other=0.0).to(tl.float32)
        b_g = tl.load(p_g + offsets, mask=m_step, other=0.0).to(tl.float32)
        b_b = tl.load(p_b + offsets, mask=m_step, other=0.0).to(tl.float32) if HAS_MOMENTUM else b_g
        b_new, b_b = descend(b_w, b_g, b_b, lr, decay, momentum, undamped, scale, fresh, HAS_MOMENTUM, NESTEROV,
                             MAXIMIZE)  # fmt: skip
        b_new = tl.where(m_step, b_new, b_w).to(DTYPE)
        tl.store(p_w + offsets, b_new, mask=m_step)
        if HAS_MOMENTUM:
            tl.store(p_b + offsets, b_b.to(DTYPE), mask=m_step)
        if scale is not None:
            tl.store(p_g + offsets, tl.div_rn(b_g, scale).to(DTYPE), mask=m_step)
        tile = b_new.to(tl.float32)
        if INTEGERS:
            total, squares = multiply_slices(tile, p_basis, o_k, end, total, squares, UNIT, K)
        else:
            total, squares = multiply(tile, p_basis, o_k, end, total, squares, UNIT, DTYPE.primitive_bitwidth == 16,
                                      K)  # fmt: skip
    return total, tl.sum(squares)


@triton.jit(do_not_specialize=["MATRICES"])
def sgd_sketch_kernel(p_pointers, p_meta, p_hyper, p_rows, p_scale, p_found_inf, p_table, p_tiles, p_step, p_bases,
                      p_partial, p_norms, momentum, undamped, MATRICES, DTYPE: tl.constexpr,
                      HAS_MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, MAXIMIZE: tl.constexpr,
                      INTEGERS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, K: tl.constexpr):  # fmt: skip
    i_matrix, i_strip, i_chunk, p_row, _side = place(p_table, p_tiles, p_step, tl.program_id(0), MATRICES)
    if i_matrix < 0:
        return
    rows, o_row, begin, end, p_basis = extent(p_row, p_bases, i_strip, i_chunk, BLOCK)
    stride_row, stride_column = tl.load(p_row + STRIDE_ROW), tl.load(p_row + STRIDE_COLUMN)
    offset = tl.load(p_row + OFFSET)
    i_parameter = tl.load(p_rows + i_matrix)
    p_address, p_about = p_pointers + i_parameter * POINTERS, p_meta + i_parameter * META
    fresh = tl.load(p_about + FRESH) != 0
    # A stack's slices have hyper-parameters of their own, one after the other.
    p_values = p_hyper + (tl.load(p_about + SLOT) + offset // tl.load(p_about + NUMEL)) * HYPER
    lr, decay = tl.load(p_values + LR), tl.load(p_values + DECAY)
    scale = None if p_scale is None else tl.load(p_scale)
    gradient = tl.load(p_address + GRADIENT)
    go = gradient != 0
    if p_found_inf is not None:
        go = go & (tl.load(p_found_inf) == 0.0)
    bytes_before = offset * (DTYPE.primitive_bitwidth // 8)
    weight, gradient = tl.load(p_address + PARAMETER) + bytes_before, gradient + bytes_before
    buffer = tl.load(p_address + BUFFER) + bytes_before
    N: tl.constexpr = 128 // DTYPE.primitive_bitwidth
    if in_vectors(weight | gradient | buffer, stride_row, stride_column, rows, tl.load(p_row + COLUMNS), N):
        if stride_column == 1:
            total, norm = _step_with(weight, gradient, buffer, p_basis, o_row, rows, stride_row, 1, begin, end, go, lr,
                                     decay, momentum, undamped, scale, fresh, "column", N, DTYPE, HAS_MOMENTUM,
                                     NESTEROV, MAXIMIZE, INTEGERS, BLOCK, BLOCK_K, K)  # fmt: skip
        else:
            total, norm = _step_with(weight, gradient, buffer, p_basis, o_row, rows, 1, stride_column, begin, end, go,
                                     lr, decay, momentum, undamped, scale, fresh, "row", N, DTYPE, HAS_MOMENTUM,
                                     NESTEROV, MAXIMIZE, INTEGERS, BLOCK, BLOCK_K, K)  # fmt: skip
    else:
        total, norm = _step_with(weight, gradient, buffer, p_basis, o_row, rows, stride_row, stride_column, begin, end,
                                 go, lr, decay, momentum, undamped, scale, fresh, "none", 1, DTYPE, HAS_MOMENTUM,
                                 NESTEROV, MAXIMIZE, INTEGERS, BLOCK, BLOCK_K, K)  # fmt: skip
    store_product(p_row, p_partial, p_norms, i_strip, i_chunk, rows, o_row, total, norm, K)


def sgd_sketch_(
    scratch: Mapping[str, Tensor],
    made: Pass,
    descent: Mapping[str, Tensor],
    kind: sgd.Kind,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    integers: bool = False,
) -> None:
    """One step of the parameters of the matrices of `made`, all of one kind; writes what `sketch_` does.

    Args:
        scratch, made: as of `sketch.sketch_`. scratch also has `rows` `(b,)` int64: where each matrix' parameter stands
            in the descent's tables. Of other matrices than those of `made` it is not read.
        descent: `pointers`, `meta` and `hyper`, see `step.descent`.
        grad_scale, found_inf: one FP32 element each, on the device.
        integers: as of `sketch_`.
    """
    tiles = made.tiles
    scalars = {"scale": grad_scale, "found_inf": found_inf}
    form = (grad_scale is not None, found_inf is not None, integers)
    variant = sgd_sketch_variant(kind, made.k, tiles.device, *form)
    given = arguments(sgd_sketch_kernel, {**scratch, **descent, **scalars, "tiles": tiles})
    numbers = {"momentum": float(kind.momentum), "undamped": 1.0 - kind.dampening}
    launch(variant, (tiles.shape[1],), {**given, **numbers, "MATRICES": scratch["table"].shape[1]})


def sgd_sketch_cost(shapes: list[tuple[int, int]], k: int, itemsize: int, momentum: bool) -> tuple[int, int]:
    """Bytes and flops: those of the step, and of a sketch that reads no W."""
    moved, flops = sketch.sketch_cost(shapes, k, 0)
    own, more = sgd.sgd_cost(sum(m * n for m, n in shapes), itemsize, momentum)
    return moved + own, flops + more


def sgd_sketch_variant(
    kind: sgd.Kind,
    k: int,
    device: torch.device,
    scaled: bool = False,
    guarded: bool = False,
    integers: bool = False,
) -> Variant:
    """What a step of that kind launches on a device, with `grad_scale` and `found_inf` or not, by integers or not."""
    return _variant(kind, scaled, guarded, integers, k, config(k, capability(device), integers))


def _variant(
    kind: sgd.Kind,
    scaled: bool,
    guarded: bool,
    integers: bool,
    k: int,
    c: sketch.Config,
    architectures: tuple[str, ...] = (),
) -> Variant:
    scalars = {"p_scale": scaled, "p_found_inf": guarded}
    kinds = {"p_hyper": "*fp32:16", "p_tiles": "*i32:16", "p_bases": "*fp32:16", "p_partial": "*fp64:16",
             "p_norms": "*fp64:16", "p_scale": "*fp32:16", "p_found_inf": "*fp32:16", "momentum": "fp32",
             "undamped": "fp32", "MATRICES": "i32"}  # fmt: skip
    constexprs = {name: None for name, given in scalars.items() if not given} | {
        "DTYPE": TRITON_TYPES[kind.dtype],
        "HAS_MOMENTUM": kind.momentum != 0,
        "NESTEROV": kind.nesterov,
        "MAXIMIZE": kind.maximize,
        "INTEGERS": integers,
        "BLOCK": c.block,
        "BLOCK_K": c.block_k,
        "K": k,
    }
    return Variant(
        kernel=sgd_sketch_kernel,
        signature={n: kinds.get(n, "*i64:16") for n in sgd_sketch_kernel.arg_names if n not in constexprs},
        constexprs=constexprs,
        num_warps=c.num_warps,
        num_stages=c.num_stages,
        maxnreg=c.maxnreg,
        enable_fp_fusion=False,
        label=str(kind.dtype).removeprefix("torch."),
        architectures=architectures,
    )


def variants() -> Iterator[Variant]:
    """For each k the one that does most: with any option less, a kernel does less and holds less. FP16 is left out: it
    is BF16 but for its conversions."""
    for k, integers in product(KS, (False, True)):
        for c, architectures in chosen(partial_(config, k, integers=integers)).items():
            kinds = (sgd.Kind(dtype, 0.9, 0.0, True, True) for dtype in (torch.bfloat16, torch.float32))
            yield from (_variant(kind, True, True, integers, k, c, architectures) for kind in kinds)
