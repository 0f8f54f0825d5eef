"""Power: products of each Gram with a vector, the steps of a power iteration for lambda_1 = sigma_1^2.

    y = (G - s I) x / ||x||        G (r, r), x and y (r,), FP64; then y takes the place of x, a few times; at last s = 0

The first x is the first singular vector that a sketch has found (`sketch.lift`). A sketch alone knows sigma_1 only as
well as last step's basis fits this step's matrix. What its vector is off by, because the step has changed W, lies in
directions of smaller singular values, and is gone after a few products. A decided matrix has no Gram, and its programs
return. Division by ||x|| keeps every vector in the range of FP64. The last x and y are what `count.shifts` reads.

Matrices of up to SMALL rows: one program a matrix makes all PRODUCTS products, with the Gram in registers and s = 0.
Larger ones: a launch a product, one program for ROWS elements of y. The first ones have the zeros of a Chebyshev
polynomial on [0, SPAN low] as s, low being what the sketch has proven of lambda_1: of all polynomials of its degree
it is the smallest there, in units of what it is at lambda_1 (Saad, Numerical Methods for Large Eigenvalue Problems,
4.4). Where nothing is proven s is 0.

Bytes: 8 r^2 a product, from L2 where it fits; once for small matrices. Flops: 2 r^2 a product. Measured on an
H200: five launches for ResNet-18 24 us, that for small matrices 10 us.

Tried, in training (`fastrank.reference.sketch`, k = 16, noisy steps that leave the rank undecided): the share of such
steps after which the last x is near enough for TIGHT. Layers of 100 x 100 in three runs, then of 512 x 512 in two:
    8 products, s = 0       0.988  0.971  1.000     0.781  0.781
    5 products, s = 0       0.982  0.966  1.000     0.562  0.625
    5 products, SPAN 0.7    0.989  0.971  1.000     0.812  0.875
    5 products, SPAN 0.8    0.991  0.971  1.000     0.875  0.875
    5 products, SPAN 0.9    0.991  0.973  1.000     0.875  0.781
    4 products, SPAN 0.8    0.984  0.971  1.000     0.750  0.750
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from ..inertia.table import FIELDS, OFFSET, ORDER
from ..launch import launch
from ..variant import Variant

PRODUCTS = 8
"""Products of each small Gram with a vector. The square of the vector's error in direction i falls by
(lambda_i / lambda_1)^14 before the last, which measures it."""
SPAN = 0.8
"""Share of lambda_1 up to which the products with larger Grams suppress what is in the vector, see above."""
SHIFTS = (*(round(1024 * SPAN / 2 * (1 + math.cos(math.pi * (i + 0.5) / 4))) / 1024 for i in range(4)), 0.0)
"""s of each product with a larger Gram, in units of low; FP32 numbers. There are as many as `power_` expects: an odd
number of products leaves the last x where the first was."""
SMALL = 128
"""Largest order whose Gram one program holds in its registers."""
ROWS = 16
"""Rows of a larger Gram that one program multiplies."""


@triton.jit
def _inverse_length(square):
    """1 / ||x|| from the square of ||x||; 1 where that is zero or NaN."""
    return 1.0 / tl.where(square > 0, tl.sqrt(square), 1.0)


@triton.jit(do_not_specialize=["WIDTH", "KNOWN"])
def power_kernel(p_table, p_ids, p_decided, p_gram, p_from, p_to, p_proof, shift, WIDTH, KNOWN, ROWS: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    """ROWS elements of y of one matrix, whose vectors are rows of `p_from` and `p_to`."""
    i_matrix = tl.load(p_ids + tl.program_id(0)).to(tl.int64)
    p_row = p_table + i_matrix * FIELDS
    order = tl.multiple_of(tl.load(p_row + ORDER), 32)
    first = tl.program_id(1) * ROWS
    if (tl.load(p_decided + i_matrix) != 0) | (first >= order):
        return
    o_row = first.to(tl.int64) + tl.arange(0, ROWS)
    m_row = o_row < order
    p_gram += tl.multiple_of(tl.load(p_row + OFFSET), 32)
    total = tl.zeros((ROWS, BLOCK), tl.float64)
    square = tl.zeros((BLOCK,), tl.float64)
    for i in range(0, order, BLOCK):
        o = i + tl.arange(0, BLOCK).to(tl.int64)
        m = o < order
        g = tl.load(p_gram + (o_row[:, None] * order + o[None, :]), mask=m_row[:, None] & m[None, :], other=0.0)
        x = tl.load(p_from + i_matrix * WIDTH + o, mask=m, other=0.0)
        total += g * x[None, :]
        square += x * x
    y = tl.sum(total, 1)
    if shift != 0:
        own = tl.load(p_from + i_matrix * WIDTH + o_row, mask=m_row, other=0.0)
        y -= shift * tl.load(p_proof + i_matrix * KNOWN + 1) * own
    tl.store(p_to + i_matrix * WIDTH + o_row, y * _inverse_length(tl.sum(square)), mask=m_row)


@triton.jit
def _product(gram, x):
    """G x / ||x|| for a symmetric G (BLOCK, BLOCK), down its columns: there are fewer sums between threads than along
    its rows."""
    return tl.sum(gram * x[:, None], 0) * _inverse_length(tl.sum(x * x))


@triton.jit(do_not_specialize=["WIDTH"])
def power_small_kernel(p_table, p_ids, p_decided, p_gram, p_from, p_to, WIDTH, PRODUCTS: tl.constexpr,
                       BLOCK: tl.constexpr):  # fmt: skip
    """All products of one matrix: the last x goes where the first one was, the last y into `p_to`."""
    i_matrix = tl.load(p_ids + tl.program_id(0)).to(tl.int64)
    if tl.load(p_decided + i_matrix) != 0:
        return
    p_row = p_table + i_matrix * FIELDS
    order = tl.multiple_of(tl.load(p_row + ORDER), 32)
    o = tl.arange(0, BLOCK)
    m = o < order
    p_gram += tl.multiple_of(tl.load(p_row + OFFSET), 32)
    gram = tl.load(p_gram + (o[:, None] * order + o[None, :]), mask=m[:, None] & m[None, :], other=0.0)
    x = tl.load(p_from + i_matrix * WIDTH + o, mask=m, other=0.0)
    # The last product apart: Triton 3.6 does not carry a second name for x through a loop, but keeps the first x in it.
    for _ in range(PRODUCTS - 1):
        x = _product(gram, x)
    y = _product(gram, x)
    tl.store(p_from + i_matrix * WIDTH + o, x, mask=m)
    tl.store(p_to + i_matrix * WIDTH + o, y, mask=m)


def power_(vectors: Tensor, table: Tensor, ids: Tensor, decided: Tensor, gram: Tensor, proof: Tensor) -> None:
    """Makes the products of each of the matrices `ids`, of any order, a launch each.

    Args:
        vectors: `(2, b, width)` FP64, width at least the order of every Gram. The first x is read from `vectors[0]`,
            and the last is there in the end, the last y in `vectors[1]`; in between they take turns.
        table: `(b, FIELDS)` int64, see `inertia.table`. ids: `(n,)` int32.
        decided: `(b,)` int32; where it is not 0 the matrix is skipped, and its vectors keep their values.
        gram: FP64 workspace with whole Grams, both triangles.
        proof: `(b, at least 2)` FP64, [:, 1] a lower bound of lambda_1, 0 where nothing is known.
    """
    given = {"p_table": table, "p_ids": ids, "p_decided": decided, "p_gram": gram, "WIDTH": vectors.shape[-1]}
    known = {"p_proof": proof, "KNOWN": proof.shape[1]}
    grid = (len(ids), -(-vectors.shape[-1] // ROWS))
    for i, shift in enumerate(SHIFTS):
        way = {"p_from": vectors[i % 2], "p_to": vectors[1 - i % 2], "shift": shift}
        launch(POWER, grid, given | known | way)


def power_small_(vectors: Tensor, table: Tensor, ids: Tensor, decided: Tensor, gram: Tensor) -> None:
    """Makes the products of the matrices `ids`, of order `SMALL` at most, in one launch. Arguments as of `power_`."""
    given = {"p_table": table, "p_ids": ids, "p_decided": decided, "p_gram": gram, "WIDTH": vectors.shape[-1]}
    launch(POWER_SMALL, (len(ids),), given | {"p_from": vectors[0], "p_to": vectors[1]})


def power_cost(orders: list[int]) -> tuple[int, int]:
    """Bytes and flops of one product with each Gram of these `orders`: the Gram is read once."""
    return sum(8 * r * r for r in orders), sum(2 * r * r for r in orders)


_SIGNATURE = {
    "p_table": "*i64:16", "p_ids": "*i32:16", "p_decided": "*i32:16", "p_gram": "*fp64:16", "p_from": "*fp64:16",
    "p_to": "*fp64:16", "WIDTH": "i32",
}  # fmt: skip
POWER = Variant(
    kernel=power_kernel,
    signature=_SIGNATURE | {"p_proof": "*fp64:16", "shift": "fp32", "KNOWN": "i32"},
    constexprs={"ROWS": ROWS, "BLOCK": 256},
    num_warps=8,
    num_stages=2,
)
POWER_SMALL = Variant(
    kernel=power_small_kernel,
    signature=_SIGNATURE,
    constexprs={"PRODUCTS": PRODUCTS, "BLOCK": SMALL},
    num_warps=8,
    num_stages=1,
)


def variants() -> Iterator[Variant]:
    yield POWER
    yield POWER_SMALL
