"""Tiles: the arithmetic of the CPU kernels, on 8 x 8 tiles in registers.

A symmetric matrix of order r is kept as its lower triangle, in panels of 8 rows; a panel has its columns one after
the other, 8 FP64 numbers each, up to the tile on the diagonal, which is whole. Columns 8 J to 8 J + 7 of panel p are
the tile (p, J), 64 numbers that follow each other. A column of a tile is one vector of AVX-512 or two of AVX2, and what
factors, Grams and products with vectors have to do is done to such vectors, without a shuffle:

    product     tile(p, K) = source + A(p) B(K)^T        over any number of columns: where nearly all the time goes
    solve       the tiles below a tile on the diagonal whose factors are known
    multiply    y += G x, of a column of tiles below the diagonal, and of its transpose

`product` does 256 flops for every 24 numbers that it reads; its sums begin at zero and stay in registers for SUM
columns, and are then added to the tile: the shorter sums are, the less rounding there is for a bracket to allow for.
Each is a function of Numba's that writes LLVM's vector instructions itself, because no loop is certain to become them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

OPTIONS = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options of functions that only compiled ones call: Numba writes no way to call them from Python."""

Orders = TypeVar("Orders", int, NDArray[np.int64])

SIDE = 8
"""Rows and columns of a tile."""
TILE = SIDE * SIDE
SUM = 16
"""Columns in one sum of products, see `fastrank.counting.growth.blocked_terms`."""

_WIDE = bool(llvm.get_host_cpu_features().get("avx512f", False))
_AT_ONCE = 8 if _WIDE else 4
"""Columns of a tile whose sums are in registers at the same time: there are 32 vectors of 64 bytes, or 16 of 32."""

_F64, _I64, _I32 = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_F64, SIDE)


class _Emitter:
    """Writes instructions on vectors of 8 numbers; places are counted in FP64 numbers."""

    def __init__(self, context: Any, builder: Any) -> None:
        self._context, self.builder = context, builder

    def pointer(self, kind: Any, array: Any, place: Any) -> Any:
        """Where a 1-D array has its element number `place`."""
        return self.builder.gep(self._context.make_array(kind)(self._context, self.builder, array).data, [place])

    def at(self, pointer: Any, place: int | Any) -> Any:
        return self.builder.gep(pointer, [_I64(place) if isinstance(place, int) else place])

    def load(self, pointer: Any, place: int | Any = 0) -> Any:
        vector = self.builder.load(self.builder.bitcast(self.at(pointer, place), _VECTOR.as_pointer()))
        vector.align = 8
        return vector

    def store(self, vector: Any, pointer: Any, place: int = 0) -> None:
        self.builder.store(vector, self.builder.bitcast(self.at(pointer, place), _VECTOR.as_pointer())).align = 8

    def spread(self, pointer: Any, place: int) -> Any:
        """The number at a place, in every element of a vector."""
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, self.builder.load(self.at(pointer, place)), _I32(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, SIDE), [0] * SIDE))

    def add_product(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once where the CPU can."""
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.fmuladd.v8f64")
        return self.builder.call(function, [a, b, c])


def _typed(emit: Callable[[_Emitter, Sequence[Any]], None], arrays: int, *given: Any) -> Any:
    """What Numba wants to know of a function: its type, and how to write it. Of its arguments the first are 1-D FP64
    arrays with a place in each, for which `emit` gets a pointer, and the rest are integers."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emitter = _Emitter(context, builder)
        pointers = [emitter.pointer(signature.args[i], *arguments[i : i + 2]) for i in range(0, 2 * arrays, 2)]
        emit(emitter, [*pointers, *arguments[2 * arrays :]])
        return context.get_dummy_value()

    kinds = (x if i % 2 == 0 and i < 2 * arrays else types.int64 for i, x in enumerate(given))
    return types.void(*kinds), codegen


def _product(panels: int) -> Callable[[_Emitter, Sequence[Any]], None]:
    def emit(e: _Emitter, given: Sequence[Any]) -> None:
        to, source, a = (given[i * panels : (i + 1) * panels] for i in range(3))
        b, depth = given[3 * panels :]
        builder = e.builder
        for first in range(0, SIDE, _AT_ONCE):
            sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(_AT_ONCE)] for _ in range(panels)]
            # The first sums are added to the source, which is copied if there are none, and later ones to what is made.
            onto = [cgutils.alloca_once_value(builder, pointer) for pointer in source]
            once = builder.select(builder.icmp_signed("<", depth, _I64(1)), _I64(1), depth)
            with cgutils.for_range_slice(builder, _I64(0), once, _I64(SUM), _I64) as (start, _):
                for variable in chain(*sums):
                    builder.store(ir.Constant(_VECTOR, [0.0] * SIDE), variable)
                full = builder.add(start, _I64(SUM))
                stop = builder.select(builder.icmp_signed("<", full, depth), full, depth)
                with cgutils.for_range_slice(builder, start, stop, _I64(1), _I64) as (k, _):
                    place = builder.mul(k, _I64(SIDE))
                    columns = [e.load(panel, place) for panel in a]
                    row = e.at(b, place)
                    for j in range(_AT_ONCE):
                        factor = e.spread(row, first + j)
                        for column, of_panel in zip(columns, sums, strict=True):
                            builder.store(e.add_product(column, factor, builder.load(of_panel[j])), of_panel[j])
                for i, of_panel in enumerate(sums):
                    before = builder.load(onto[i])
                    for j in range(_AT_ONCE):
                        at = SIDE * (first + j)
                        e.store(builder.fadd(e.load(before, at), builder.load(of_panel[j])), to[i], at)
                    builder.store(to[i], onto[i])

    return emit


def _solve(e: _Emitter, given: Sequence[Any]) -> None:
    tile, scaled, pivots, growth = given
    columns = [e.load(tile, SIDE * k) for k in range(SIDE)]
    total = e.load(growth)
    for k in range(SIDE):
        column = e.builder.fmul(columns[k], e.spread(pivots, k))
        total = e.add_product(e.builder.fmul(column, e.spread(pivots, SIDE + k)), column, total)
        e.store(column, tile, SIDE * k)
        minus = e.builder.fneg(column)
        for j in range(k + 1, SIDE):
            columns[j] = e.add_product(minus, e.spread(scaled, SIDE * j + k), columns[j])
    e.store(total, growth)


def _multiply(e: _Emitter, given: Sequence[Any]) -> None:
    tile, x, y, x_columns, dots, first, count = given
    builder = e.builder
    factors = [e.spread(x_columns, k) for k in range(SIDE)]
    sums = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * SIDE)) for _ in range(SIDE)]
    place = cgutils.alloca_once_value(builder, _I64(0))
    with cgutils.for_range_slice(builder, first, count, _I64(1), _I64) as (p, _):
        row, at = builder.mul(p, _I64(SIDE)), e.at(tile, builder.load(place))
        x_rows, total = e.load(x, row), e.load(y, row)
        for k in range(SIDE):
            column = e.load(at, SIDE * k)
            total = e.add_product(column, factors[k], total)
            builder.store(e.add_product(column, x_rows, builder.load(sums[k])), sums[k])
        e.store(total, e.at(y, row))
        skipped = builder.mul(builder.add(p, _I64(1)), _I64(TILE))
        builder.store(builder.add(builder.load(place), skipped), place)
    for k in range(SIDE):
        e.store(builder.load(sums[k]), dots, SIDE * k)


# Arguments: each array, then the place in it where a tile or a panel begins. What is written may be what is read.
@intrinsic
def add_one(typing, to, i_to, source, i_source, a, i_a, b, i_b, depth):
    """to = source + a b^T: a tile, from `depth` columns of two panels."""
    return _typed(_product(1), 4, to, i_to, source, i_source, a, i_a, b, i_b, depth)


@intrinsic
def add_two(typing, to, i_to, to_2, i_to_2, source, i_source, source_2, i_source_2, a, i_a, a_2, i_a_2, b, i_b, depth):
    """The same for two panels `a`, which share what is read of `b`."""
    given = (to, i_to, to_2, i_to_2, source, i_source, source_2, i_source_2, a, i_a, a_2, i_a_2, b, i_b, depth)
    return _typed(_product(2), 7, *given)


@intrinsic
def solve(typing, tile, i_tile, scaled, i_scaled, pivots, i_pivots, growth, i_growth):
    """Turn a tile W = L D M^T into L, where M is the unit lower triangle of the tile on the diagonal.

    `scaled`: M D, row by row. `pivots`: 1 / d_k of the 8 columns, then |d_k|. Adds |d_k| L_ik^2 to `growth`, by rows.
    """
    return _typed(_solve, 4, tile, i_tile, scaled, i_scaled, pivots, i_pivots, growth, i_growth)


@intrinsic
def multiply(typing, tile, i_tile, x, i_x, y, i_y, x_columns, i_columns, dots, i_dots, first, count):
    """y += T x_columns, for the tiles T of one column in the panels from `first` up to `count`; 8 x 8 partial sums of
    T^T x are written to `dots`. The first tile begins at `i_tile`; `x` and `y` have 8 numbers for each panel."""
    return _typed(_multiply, 5, tile, i_tile, x, i_x, y, i_y, x_columns, i_columns, dots, i_dots, first, count)


@njit(inline="always")
def panel(p):
    """Where panel `p` begins."""
    return TILE // 2 * p * (p + 1)


@njit(inline="always")
def panels(order):
    """How many panels a matrix of this order has: the last one may have rows of zeros."""
    return (order + SIDE - 1) // SIDE


def size(order: Orders) -> Orders:
    """FP64 numbers of the lower triangle of a matrix of this order, or of each of several in an array."""
    count = -(-order // SIDE)
    return TILE // 2 * count * (count + 1)


@njit(**OPTIONS)
def update(to, i_to, source, i_source, a, i_a, width, b, i_b, b_width, first, last, count, depth):
    """Tiles (p, K) of `to` = those of `source` + a(p) b(K)^T, for K from `first` up to `last`, p from K up to `count`.

    Args:
        to, source: lower triangles, which begin at `i_to` and `i_source`. They may be the same.
        a: its panel p begins at `i_a` + `width` p; or where the lower triangle's does, for a `width` of 0.
        b: panel K begins at `i_b` + `b_width` (K - first).
        depth: columns of `a` and `b` that are multiplied; with 0 the tiles are copied.
    """
    for p in range(first, count, 2):
        at, under = panel(p), panel(p + 1)
        i_p, i_under = i_a + (width * p if width else at), i_a + (width * (p + 1) if width else under)
        paired = p + 1 < count
        for i in range(first, min(last, p + 2 if paired else p + 1)):
            i_k = i_b + b_width * (i - first)
            t, u = at + TILE * i, under + TILE * i
            if not paired:
                add_one(to, i_to + t, source, i_source + t, a, i_p, b, i_k, depth)
            elif i <= p:
                add_two(to, i_to + t, to, i_to + u, source, i_source + t, source, i_source + u, a, i_p, a, i_under,
                        b, i_k, depth)  # fmt: skip
            else:
                add_one(to, i_to + u, source, i_source + u, a, i_under, b, i_k, depth)
