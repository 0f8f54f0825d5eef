"""cuBLAS's FP64 product of a matrix with its own transpose, one triangle of it, through ctypes: a rival for Grams.

    G = W W^T, lower triangle        W (r, n) FP64, rows or columns contiguous

PyTorch has no way to `cublasDsyrk`, and CuPy's works on a stream and in a workspace of CuPy's own. It is called here
with the handle of PyTorch's products: on the current stream, with a workspace that a CUDA graph can capture. cuBLAS has
no batched form of it: matrices go one by one.

Types and order of arguments are those of cuBLAS's manual, with dimensions of 32 bits.
"""

from __future__ import annotations

import ctypes
import functools

import cuda_library
import torch
from torch import Tensor

UPPER, AS_IT_IS, TRANSPOSED = 1, 0, 1
"""`cublasFillMode_t` and `cublasOperation_t`."""

_address, _int, _double = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_double)


class Blas:
    """The function of a library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._dsyrk = library.cublasDsyrk_v2
        self._dsyrk.argtypes = (_address, *(_int,) * 4, _double, _address, _int, _double, _address, _int)
        self._dsyrk.restype = _int

    def gram(self, wide: Tensor, handle: int) -> Tensor:
        """Lower triangle of W W^T `(r, r)`, FP64, of `wide` `(r, n)`; above the diagonal stands what was there.

        handle: of cuBLAS, with the stream to work on and with numbers on the host.
        """
        r, n = wide.shape
        by_rows = wide.stride(1) == 1 or n == 1
        if not by_rows and wide.stride(0) != 1:
            raise ValueError("neither its rows nor its columns are contiguous")
        # cuBLAS counts by columns: it sees rows as the columns of the transpose, and a lower triangle as an upper one.
        leading = max(wide.stride(0), n) if by_rows else max(wide.stride(1), r)
        out = wide.new_empty(r, r)
        one, zero = ctypes.c_double(1), ctypes.c_double(0)
        status = self._dsyrk(
            *(handle, UPPER, TRANSPOSED if by_rows else AS_IT_IS, r, n),
            *(ctypes.byref(one), wide.data_ptr(), leading, ctypes.byref(zero), out.data_ptr(), r),
        )
        if status:
            raise RuntimeError(f"cublasDsyrk returned {status}")
        return out


def gram(wide: Tensor) -> Tensor:
    """`Blas.gram` on the current stream of the tensor's device."""
    with torch.cuda.device(wide.device):
        return _blas().gram(wide, torch.cuda.current_blas_handle())


@functools.cache
def _blas() -> Blas:
    torch.eye(2, device="cuda") @ torch.eye(2, device="cuda")  # PyTorch loads its cuBLAS, which then has the name below
    assert torch.version.cuda is not None
    return cuda_library.found(f"libcublas.so.{torch.version.cuda.partition('.')[0]}", Blas)
