"""Shifts: where the eigenvalues of a Gram are counted, from what is known of sigma_1, and whether to certify that.

    s = tau^2 - delta, tau^2 + delta                         for each tolerance, see `fastrank.counting.bounds`
    s = low (1 + SLACK) - delta, low (1 + TIGHT) - delta     no eigenvalue above one of them certifies sigma_1^2

x and y = G x / ||x|| are the last vectors of `count.power`; theta = x^T y / ||x|| is a lower bound of sigma_1^2 =
lambda_1. With rho = ||y - theta x / ||x|| ||, some eigenvalue is at least theta - rho. If all others together,
beta^2 = ||G||_F^2 - (theta - rho)^2, are less than its square, then it is lambda_1, none of them is above beta, and by
Temple's and Kato's inequality

    lambda_1 <= theta + rho^2 / (theta - beta)

The twin, `fastrank.reference.kato_bound`, has the proof and the allowance for rounding. Where sigma_1 is known to TIGHT
by that or by the sketch, the certificate's shifts are NaN, so that `inertia.ldl` factors two problems less.

One program a matrix. Bytes: the diagonal of G, 5 r elements of vectors, 8 S PARTS of growth. Bound by latency,
measured 6 us for ResNet-18 on an H200.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from ..device import capability, chosen
from ..inertia import UNIT
from ..inertia.table import COLUMNS, FIELDS, OFFSET, ORDER, ROWS
from ..launch import launch
from ..variant import Variant
from .answers import SLACK, TIGHT, Answers
from .finish import SMALLEST
from .gram import config

FROBENIUS, SPECTRAL, ABSOLUTE = map(tl.constexpr, range(3))
"""What a tolerance is relative to; as in `sketch.proof`."""
LARGEST = tl.constexpr(1e200)
"""Of tau^2; as `fastrank.counting.LARGEST_TAU`."""
WIDENING, AGAIN_ABOVE = tl.constexpr(1e-8), tl.constexpr(512)
"""As in `fastrank.counting.growth`."""
SPARE = tl.constexpr(1 + 2.0**-20)
"""As in `fastrank.reference.again`."""
BLOCK = 512
"""Elements of a vector, or tiles of a Gram, that a program takes at a time."""


@triton.jit
def terms_of(order):
    """Most operations on one element in the LDL^T of a matrix of this order; see `fastrank.reference.again`."""
    return tl.minimum(order, 576.0 + order / 128) + 64.0


@triton.jit
def _around(low, high, error, trace, order, inner):
    """tau^2 - delta, tau^2 + delta and the limit of growth, as `fastrank.counting.shifts_around` makes them."""
    terms = terms_of(order)
    size = trace + high * order
    part = order / 512
    # In units of WIDENING, as `tl.maximum` takes a number at FP32's precision.
    widening = tl.maximum(1e3 * tl.maximum(tl.minimum(part * part * part, 1.0), part * part / 16), 1.0)
    limit = size * tl.where(order <= AGAIN_ABOVE, 32.0, 8.0) + low * (widening * WIDENING / UNIT / terms)
    delta = trace * (UNIT * (inner + 4.0)) + (size + limit) * (UNIT * terms) + error
    delta *= SPARE
    return low - delta, high + delta, limit


@triton.jit
def _kato_bound(theta, rho, square, error, order):
    """Upper bound of lambda_1, Inf where there is none. `square` is ||G||_F^2; see `fastrank.reference.kato_bound`."""
    far = rho + error
    near = theta - far
    norm = tl.sqrt(square * (1 + UNIT * (order * order + 64))) + error
    beta = tl.sqrt(tl.maximum(norm * norm * (1 + 16 * UNIT) - near * near, 0.0)) * (1 + 4 * UNIT)
    bound = (theta + error + far * far / (theta - error - beta)) * (1 + 16 * UNIT)
    return tl.where((beta < near) & (beta < theta - error), bound, float("inf"))


@triton.jit(do_not_specialize=["WIDTH", "TOLERANCES", "PARTS"])
def shifts_kernel(p_table, p_ids, p_decided, p_gram, p_squares, p_x, p_y, p_noise, p_tolerances, p_proof, p_error,
                  p_trace, p_top, p_coefficients, p_limits, p_counts, p_growth, WIDTH, TOLERANCES, PARTS,
                  TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    i_matrix = tl.load(p_ids + tl.program_id(0)).to(tl.int64)
    if tl.load(p_decided + i_matrix) != 0:
        return
    p_row = p_table + i_matrix * FIELDS
    size, offset = tl.load(p_row + ORDER), tl.load(p_row + OFFSET)
    order, inner = tl.load(p_row + ROWS).to(tl.float64), tl.load(p_row + COLUMNS).to(tl.float64)
    at = i_matrix * WIDTH

    diagonal, of_x = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    of_y, of_both = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for i in range(0, size, BLOCK):
        o = i + tl.arange(0, BLOCK).to(tl.int64)
        diagonal += tl.load(p_gram + offset + o * (size + 1), mask=o < size, other=0.0)
        x, y = tl.load(p_x + at + o, mask=o < size, other=0.0), tl.load(p_y + at + o, mask=o < size, other=0.0)
        of_x += x * x
        of_y += y * y
        of_both += x * y
    trace = tl.sum(diagonal)
    x_square = tl.sum(of_x)
    x_length = tl.where(x_square > 0, tl.sqrt(x_square), 1.0)
    y_length = tl.sqrt(tl.sum(of_y))
    renewable = (y_length > 0) & (y_length < float("inf"))
    y_divisor = tl.where(renewable, y_length, 1.0)
    theta = tl.sum(of_both) / x_length
    of_rest = tl.zeros((BLOCK,), tl.float64)
    for i in range(0, size, BLOCK):
        o = i + tl.arange(0, BLOCK).to(tl.int64)
        x, y = tl.load(p_x + at + o, mask=o < size, other=0.0), tl.load(p_y + at + o, mask=o < size, other=0.0)
        rest = y - x * (theta / x_length)
        of_rest += rest * rest
        noise = tl.load(p_noise + at + o, mask=o < size, other=0.0)
        tl.store(p_x + at + o, tl.where(renewable, y / y_divisor, noise), mask=o < size)
    across = tl.cdiv(size, TILE)
    of_tiles = tl.zeros((BLOCK,), tl.float64)
    for i in range(0, across * across, BLOCK):
        o = i + tl.arange(0, BLOCK).to(tl.int64)
        m = (o < across * across) & (o % across <= o // across)
        of_tiles += tl.load(p_squares + offset // SMALLEST + o, mask=m, other=0.0)

    sliced = tl.load(p_error + i_matrix)
    error = UNIT * (inner + 4 * order + 64) * trace + sliced
    p_known = p_proof + i_matrix * (3 + 2 * TOLERANCES)
    norm, low, high = tl.load(p_known), tl.load(p_known + 1), tl.load(p_known + 2)
    low = tl.where(theta - error > low, theta - error, low)
    high = tl.where(norm == norm, high, trace * (1 + UNIT * (inner + order + 64)) + sliced)
    bound = _kato_bound(theta, tl.sqrt(tl.sum(of_rest)), tl.sum(of_tiles), error, order)
    high = tl.where(bound < high, bound, high)
    tl.store(p_trace + i_matrix, trace)
    tl.store(p_top + 2 * i_matrix, low)
    tl.store(p_top + 2 * i_matrix + 1, high)

    i_first = i_matrix * 2 * (TOLERANCES + 1)
    p_shift, p_limit, p_count = p_coefficients + 2 * i_first, p_limits + i_first, p_counts + i_first
    for i in range(0, TOLERANCES):
        kind, square = tl.load(p_tolerances + 2 * i), tl.load(p_tolerances + 2 * i + 1)
        relative = tl.where(kind == FROBENIUS, square * trace, tl.minimum(square, LARGEST))
        least, most = (
            tl.where(kind == SPECTRAL, square * low, relative),
            tl.where(kind == SPECTRAL, square * high, relative),
        )
        wrong = tl.where(
            kind == ABSOLUTE, 0.0, trace * (square * 4 * UNIT * (inner + 8 * (order + 10))) + 4 * square * sliced
        )
        under, over, limit = _around(least, most, wrong + sliced, trace, order, inner)
        _store_pair(p_shift + 4 * i, p_limit + 2 * i, p_count + 2 * i, under, over, limit)
    near, far = low * (1 + SLACK), low * (1 + TIGHT)
    under, over, limit = _around(near, far, sliced, trace, order, inner)
    known = high <= far
    under, over = tl.where(known, float("nan"), under), tl.where(known, float("nan"), 2 * far - over)  # far - delta
    limit = tl.where(known, -1.0, limit)
    _store_pair(p_shift + 4 * TOLERANCES, p_limit + 2 * TOLERANCES, p_count + 2 * TOLERANCES, under, over, limit)

    cells = 2 * (TOLERANCES + 1) * PARTS
    for i in range(0, cells, BLOCK):
        o = i + tl.arange(0, BLOCK)
        tl.store(p_growth + i_matrix * cells + o, tl.zeros((BLOCK,), tl.float64), mask=o < cells)


@triton.jit
def _store_pair(p_shift, p_limit, p_count, under, over, limit):
    """Coefficients of two shifts, slope 0 and the shift itself; their limit; and counts of 0."""
    tl.store(p_shift + 0, 0.0)
    tl.store(p_shift + 1, under)
    tl.store(p_shift + 2, 0.0)
    tl.store(p_shift + 3, over)
    tl.store(p_limit + 0, limit)
    tl.store(p_limit + 1, limit)
    tl.store(p_count + 0, 0)
    tl.store(p_count + 1, 0)


def shifts_(
    answers: Answers, vectors: Tensor, noise: Tensor, tolerances: Tensor, proof: Tensor, table: Tensor, ids: Tensor,
    decided: Tensor, gram: Tensor, squares: Tensor, error: Tensor,
) -> None:  # fmt: skip
    """Says where to count the matrices `ids` that are not decided, and prepares the count and the next start vectors.

    Args:
        answers: traces, top, coefficients and limits are written, counts and growth are set to 0.
        vectors: `(2, b, width)` FP64, x and y of the last product. y / ||y||, the next start, takes the place of x;
            where y is zero or not finite, it is noise.
        noise: `(b, width)` FP64, zero from a matrix' order on.
        tolerances: `(T, 2)` FP64, kind, and square of the value: of 2 at most, or of 1e150 for `ABSOLUTE`.
        proof: `(b, 3 + 2 T)` FP64: ||W||_F^2, lower and upper bound of sigma_1^2, then bounds of the ranks, which are
            not read here. A NaN as ||W||_F^2 says that nothing is known.
        table, ids, decided: as of `power.power_`.
        gram: FP64 workspace with the Grams. squares: FP64, of `finish_`. error: `(b,)` FP64, of `Grams`.
    """
    given = {
        "p_table": table, "p_ids": ids, "p_decided": decided, "p_gram": gram, "p_squares": squares, "p_x": vectors[0],
        "p_y": vectors[1], "p_noise": noise, "p_tolerances": tolerances, "p_proof": proof, "p_error": error,
        "p_trace": answers.trace, "p_top": answers.top, "p_coefficients": answers.coefficients,
        "p_limits": answers.limits, "p_counts": answers.counts, "p_growth": answers.growth,
    }  # fmt: skip
    sizes = {"WIDTH": vectors.shape[-1], "TOLERANCES": len(tolerances), "PARTS": answers.growth.shape[-1]}
    launch(shifts_variant(config(capability(table.device)).block), (len(ids),), given | sizes)


def shifts_variant(tile: int, architectures: tuple[str, ...] = ()) -> Variant:
    """tile: rows of the tiles of `finish_`."""
    kinds = {"p_table": "*i64:16", "p_ids": "*i32:16", "p_decided": "*i32:16", "WIDTH": "i32", "TOLERANCES": "i32"}
    kinds |= {"PARTS": "i32", "p_counts": "*i64:16"}
    constexprs = {"TILE": tile, "BLOCK": BLOCK}
    return Variant(
        kernel=shifts_kernel,
        signature={name: kinds.get(name, "*fp64:16") for name in shifts_kernel.arg_names if name not in constexprs},
        constexprs=constexprs,
        num_warps=4,
        num_stages=1,
        maxnreg=128,  # with no number given Triton 3.9 aims for 72, and spills 8 bytes on sm_80
        architectures=architectures,
    )


def variants() -> Iterator[Variant]:
    for c, architectures in chosen(config).items():
        yield shifts_variant(c.block, architectures)
