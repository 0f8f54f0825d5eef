"""Memory: addresses as pointers, and counters that several threads may count up."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def pointer(typing, address):
    """An address as a pointer, of which `numba.carray` makes an array."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), codegen


@intrinsic
def take(typing, tickets, i):
    """The next task: counts up element `i` of an array of int64, as one operation, and returns what it was."""

    def codegen(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = cgutils.gep(builder, array.data, arguments[1])
        return builder.atomic_rmw("add", place, ir.IntType(64)(1), "monotonic")

    return types.int64(tickets, types.int64), codegen
