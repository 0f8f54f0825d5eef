"""Memory: addresses as pointers, and counters that several threads may count up."""

from __future__ import annotations

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
def fetch_add(typing, array, i, count):
    """Add to element `i` of an array of int64, as one operation, and return what it was.

    What a thread has written before its operation is seen by those whose operations on the element come later.
    """

    def codegen(context, builder, signature, arguments):
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = cgutils.gep(builder, made.data, arguments[1])
        return builder.atomic_rmw("add", place, arguments[2], "acq_rel")

    return types.int64(array, types.int64, types.int64), codegen
