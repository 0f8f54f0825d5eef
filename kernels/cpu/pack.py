"""Pack: columns of W, widened to FP64, in panels of 8 rows: the 8 numbers of a column, then those of the next.

Rows whose numbers follow each other in memory are read 8 by 8, and such a block is transposed in registers; columns
that do are read as they are. With other strides, and at the edges, W is read number by number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from .tiles import OPTIONS, SIDE, panels

_I64, _WIDE = ir.IntType(64), ir.VectorType(ir.DoubleType(), SIDE)
_PICKS = ir.VectorType(ir.IntType(32), SIDE)


def _read(element):
    """An element in FP64: a number, or the bits of one in FP32."""


@overload(_read)
def _(element):
    def from_bits(element):
        units = element & 0x7FFFFFFF
        if units >= 2**23:
            return np.float64(np.int32(element).view(np.float32))
        return units * (-(2.0**-149) if element < 0 else 2.0**-149)

    return from_bits if isinstance(element, types.Integer) else lambda element: np.float64(element)


def _transpose(builder: Any, rows: list[Any]) -> None:
    """Turn 8 vectors of 8 numbers into their columns: blocks of 1, 2 and 4 change places across the diagonal."""
    for block in (1, 2, 4):
        picks = [SIDE + i - block if i & block else i for i in range(SIDE)]
        for i in (i for i in range(SIDE) if not i & block):
            pair = rows[i], rows[i + block]
            for moved in (0, block):
                mask = ir.Constant(_PICKS, [pick + moved for pick in picks])
                rows[i + moved] = builder.shuffle_vector(*pair, mask)


@intrinsic
def _widen(typing, w, place, stride, packed, at):
    """Write 8 columns of a panel from 8 rows, of 8 numbers each, which begin `stride` apart in `w`."""
    return types.void(w, place, stride, packed, at), _mover(SIDE)


@intrinsic
def _widen_column(typing, w, place, stride, packed, at):
    """Write one column of a panel from 8 numbers that follow each other in `w`; there is no use for the stride."""
    return types.void(w, place, stride, packed, at), _mover(1)


def _mover(count: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        w, place, stride, packed, at = given
        kind = signature.args[0]
        narrow = ir.VectorType(context.get_data_type(kind.dtype), SIDE)
        source = builder.gep(context.make_array(kind)(context, builder, w).data, [place])
        target = builder.gep(context.make_array(signature.args[3])(context, builder, packed).data, [at])
        rows = []
        for i in range(count):
            row = builder.gep(source, [builder.mul(stride, _I64(i))])
            rows.append(builder.load(builder.bitcast(row, narrow.as_pointer()), align=kind.dtype.bitwidth // 8))
        if count > 1:
            _transpose(builder, rows)
        for k, row in enumerate(rows):
            column = builder.bitcast(builder.gep(target, [_I64(SIDE * k)]), _WIDE.as_pointer())
            builder.store(row if narrow == _WIDE else builder.fpext(row, _WIDE), column, align=8)
        return context.get_dummy_value()

    return codegen


def _quick(w, place, row_stride, column_stride, start, end, packed, at):
    """Pack the columns of a panel as far as whole vectors go, from `start` on; returns where that ends."""


@overload(_quick)
def _(w, place, row_stride, column_stride, start, end, packed, at):
    def by_vectors(w, place, row_stride, column_stride, start, end, packed, at):
        k = start
        if column_stride == 1:
            while k + SIDE <= end:
                _widen(w, place + k, row_stride, packed, at + SIDE * (k - start))
                k += SIDE
        elif row_stride == 1:
            while k < end:
                _widen_column(w, place + k * column_stride, 1, packed, at + SIDE * (k - start))
                k += 1
        return k

    if isinstance(w.dtype, types.Integer):
        return lambda w, place, row_stride, column_stride, start, end, packed, at: start
    return by_vectors


@njit(**OPTIONS)
def pack(w, order, row_stride, column_stride, start, end, first, packed):
    """Columns `start` to `end` of the panels from `first` on. Rows beyond the matrix are zero."""
    for p in range(first, panels(order)):
        at, row = p * SIDE * (end - start), SIDE * p * row_stride
        rows, known = min(SIDE, order - SIDE * p), start
        if rows == SIDE:
            known = _quick(w, row, row_stride, column_stride, start, end, packed, at)
        for k in range(known, end):
            for i in range(SIDE):
                element = _read(w[row + i * row_stride + k * column_stride]) if i < rows else 0.0
                packed[at + SIDE * (k - start) + i] = element
