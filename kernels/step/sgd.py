"""SGD: one step of all parameters of a dtype that share momentum, dampening and options, in one launch.

    w, b <- descend(w, g, b)      in place; see `step.descent` for the formula and the tables

Parameters w, gradients g and momentum buffers b are FP32, BF16 or FP16. The arithmetic is FP32, and w and b are rounded
once each. A gradient that is divided by `grad_scale` is written back too, as PyTorch's fused SGD does. Where
`found_inf` is not 0 nothing is written.

A program takes BLOCK elements of one slice of one parameter. If the block is full and the addresses of w, g and b are
multiples of 16, it reads and writes 16 bytes at a time. It finds that out itself, because gradients move from step to
step. Blocks that are not full, and views that start at any address, go element by element, PIECE of them at a time.

Bytes, FP32: 20 an element with momentum (w, g, b in; w, b out), 12 without, 4 more to unscale. Flops: 7. Bound by its
bytes: 11.2M elements (ResNet-18) take 52 us at an H200's 4.3 TB/s. Each program begins with three loads that depend on
each other (tile, row, elements), about 2 us of latency. In that time the memory could bring 65 KB to a multiprocessor,
whose 9 programs ask for 220 KB. (Estimates.) Measured on an H200: ResNet-18 in 57 us, 3.9 TB/s.

Tried, by what the compiler makes of it:
    masks alone        the size that a mask goes up to is not known, so no vectors: element by element everywhere
    leftovers at once  2048 of them take up to 207 registers and spill 28 bytes under Triton 3.9; 512 take 80, no spill
    one flat slice     all slices of a parameter as one range: a 64-bit division and a gather of lr and decay an element
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..count import TRITON_TYPES
from ..launch import launch
from ..limits import NARROW
from ..variant import Variant
from .descent import BUFFER, DECAY, FRESH, GRADIENT, HYPER, LR, META, NUMEL, PARAMETER, POINTERS, SLOT, descend


class Config(NamedTuple):
    """Launch configuration."""

    block: int
    num_warps: int


def config() -> Config:
    """The same for every device: 16 elements a thread, 192 bytes in flight in FP32."""
    return Config(2048, 4)


class Kind(NamedTuple):
    """What the parameters of one launch have in common: their dtype, and options of `torch.optim.SGD`."""

    dtype: torch.dtype
    momentum: float
    dampening: float
    nesterov: bool
    maximize: bool


TILE_FIELDS = tl.constexpr(3)
"""Fields of an entry of the list of work: row of the tables `pointers` and `meta`, slice, block of the slice."""
PIECE = tl.constexpr(512)
"""Elements that a program handles at a time where it cannot move 16 bytes at a time."""


@triton.jit
def sgd_kernel(p_pointers, p_meta, p_tiles, p_hyper, p_scale, p_found_inf, momentum, undamped, DTYPE: tl.constexpr,
               HAS_MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, MAXIMIZE: tl.constexpr,
               BLOCK: tl.constexpr):  # fmt: skip
    p_tile = p_tiles + tl.program_id(0) * TILE_FIELDS
    i_row, i_slice, i_block = tl.load(p_tile + 0), tl.load(p_tile + 1), tl.load(p_tile + 2)
    p_row, p_about = p_pointers + i_row * POINTERS, p_meta + i_row * META
    numel, fresh = tl.load(p_about + NUMEL), tl.load(p_about + FRESH) != 0
    p_values = p_hyper + (tl.load(p_about + SLOT) + i_slice) * HYPER
    lr, decay = tl.load(p_values + LR), tl.load(p_values + DECAY)
    scale = None if p_scale is None else tl.load(p_scale)
    # 64-bit from here on: a parameter may have more than 2^31 elements.
    begin = i_block.to(tl.int64) * BLOCK
    BYTES: tl.constexpr = DTYPE.primitive_bitwidth // 8
    start = (i_slice * numel + begin) * BYTES
    gradient = tl.load(p_row + GRADIENT)
    w, g, b = tl.load(p_row + PARAMETER) + start, gradient + start, tl.load(p_row + BUFFER) + start
    left = numel - begin
    go = gradient != 0
    if p_found_inf is not None:
        go = go & (tl.load(p_found_inf) == 0.0)

    if go:
        if (left >= BLOCK) & (((w | g | b) & 15) == 0):
            _update(w, g, b, left, lr, decay, momentum, undamped, scale, fresh, True, DTYPE,
                    HAS_MOMENTUM, NESTEROV, MAXIMIZE, BLOCK)  # fmt: skip
        else:
            for i in range(0, tl.minimum(left, BLOCK), PIECE):
                _update(w + i * BYTES, g + i * BYTES, b + i * BYTES, left - i, lr, decay, momentum, undamped, scale,
                        fresh, False, DTYPE, HAS_MOMENTUM, NESTEROV, MAXIMIZE, PIECE)  # fmt: skip


@triton.jit
def _update(w, g, b, left, lr, decay, momentum, undamped, scale, fresh, WHOLE: tl.constexpr, DTYPE: tl.constexpr,
            HAS_MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, MAXIMIZE: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    """Updates BLOCK elements at the addresses w, g and b, but at most `left`.

    WHOLE: all BLOCK are there, and the addresses are multiples of 16.
    """
    o = tl.arange(0, BLOCK)
    m = None if WHOLE else o < left
    p_w, p_g, p_b = w.to(tl.pointer_type(DTYPE)), g.to(tl.pointer_type(DTYPE)), b.to(tl.pointer_type(DTYPE))
    if WHOLE:
        p_w, p_g, p_b = tl.multiple_of(p_w, 16), tl.multiple_of(p_g, 16), tl.multiple_of(p_b, 16)
    else:
        # Without this hint Triton gives a thread neighbouring elements to load, but not to store, and exchanges them
        # through shared memory.
        o = tl.max_contiguous(tl.multiple_of(o, 1), 1)
    p_w, p_g, p_b = p_w + o, p_g + o, p_b + o
    b_w, b_g = tl.load(p_w, mask=m).to(tl.float32), tl.load(p_g, mask=m).to(tl.float32)
    b_b = tl.load(p_b, mask=m).to(tl.float32) if HAS_MOMENTUM else b_g

    b_w, b_b = descend(b_w, b_g, b_b, lr, decay, momentum, undamped, scale, fresh, HAS_MOMENTUM, NESTEROV, MAXIMIZE)

    tl.store(p_w, b_w.to(DTYPE), mask=m)
    if HAS_MOMENTUM:
        tl.store(p_b, b_b.to(DTYPE), mask=m)
    if scale is not None:
        tl.store(p_g, tl.div_rn(b_g, scale).to(DTYPE), mask=m)


def tiles_of(shapes: Sequence[tuple[int, int]], rows: Sequence[int]) -> Tensor:
    """List of work `(programs, TILE_FIELDS)` int32 on the CPU for the parameters `rows` of the tables.

    shapes: number of slices, and of elements of a slice, for each row of the tables.
    """
    listed = [torch.empty(0, TILE_FIELDS.value, dtype=torch.int32)]
    for row in rows:
        slices, numel = shapes[row]
        axes = [torch.arange(n, dtype=torch.int32) for n in (slices, -(-numel // config().block))]
        places = torch.cartesian_prod(*axes)
        listed.append(torch.cat([torch.full((len(places), 1), row, dtype=torch.int32), places], 1))
    return torch.cat(listed)


def sgd_(
    pointers: Tensor,
    meta: Tensor,
    tiles: Tensor,
    hyper: Tensor,
    kind: Kind,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Steps the parameters in `tiles`, all of one kind, in place: parameters and momentum buffers are written.

    Args:
        pointers, meta, hyper: tables on the device, see `step.descent`.
        tiles: list of work on the device, from `tiles_of`.
        grad_scale: one FP32 element on the device that gradients are divided by; they are written back. None: 1.
        found_inf: one FP32 element on the device; where it is not 0 nothing is written. None: 0.
    """
    if len(tiles):
        variant = sgd_variant(kind, grad_scale is not None, found_inf is not None)
        tables = {"p_pointers": pointers, "p_meta": meta, "p_tiles": tiles, "p_hyper": hyper}
        numbers = {"momentum": float(kind.momentum), "undamped": 1.0 - kind.dampening}
        launch(variant, (len(tiles),), {**tables, "p_scale": grad_scale, "p_found_inf": found_inf, **numbers})


def sgd_cost(numel: int, itemsize: int, momentum: bool) -> tuple[int, int]:
    """Bytes and flops of `numel` elements: 2 flops each for decay, momentum and step, and one for (1 - dampening) g."""
    return (5 if momentum else 3) * itemsize * numel, (7 if momentum else 4) * numel


def sgd_variant(kind: Kind, scaled: bool = False, guarded: bool = False) -> Variant:
    pointers = {"p_pointers": "*i64:16", "p_meta": "*i64:16", "p_tiles": "*i32:16", "p_hyper": "*fp32:16"}
    scalars = {"p_scale": scaled, "p_found_inf": guarded}
    c = config()
    return Variant(
        kernel=sgd_kernel,
        signature=pointers
        | {"momentum": "fp32", "undamped": "fp32"}
        | {name: "*fp32:16" for name, given in scalars.items() if given},
        constexprs={name: None for name, given in scalars.items() if not given}
        | {
            "DTYPE": TRITON_TYPES[kind.dtype],
            "HAS_MOMENTUM": kind.momentum != 0,
            "NESTEROV": kind.nesterov,
            "MAXIMIZE": kind.maximize,
            "BLOCK": c.block,
        },
        num_warps=c.num_warps,
        num_stages=1,
        enable_fp_fusion=False,
        label=str(kind.dtype).removeprefix("torch."),
    )


def variants() -> Iterator[Variant]:
    """For each dtype the plain step without and with momentum, and the one with every option, which does most."""
    for dtype in NARROW:
        yield sgd_variant(Kind(dtype, 0.0, 0.0, False, False))
        yield sgd_variant(Kind(dtype, 0.9, 0.0, False, False))
        yield sgd_variant(Kind(dtype, 0.9, 0.0, True, True), True, True)
