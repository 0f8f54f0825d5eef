"""A function of cuSOLVER that neither PyTorch nor CuPy offers, called through ctypes: a rival for spectra.

`cusolverDnXsyevBatched` (cuSOLVER 11.7.1, CUDA 12.6.2) takes a whole batch of symmetric matrices at once, of any order.
PyTorch calls it too, but up to 2.11 only for orders up to 32; it loops over larger matrices one by one, many times
slower (pytorch/pytorch#174674, #175585). From 2.12 on it takes every batch that way (#175403): there,
`torch.linalg.eigvalsh` is the same function. CuPy 14.2 has only `cusolverDn<t>syevjBatched`, the Jacobi method.

Types and order of arguments are those of `cusolverDn.h` of cuSOLVER 12.0.4, which comes with CUDA 13.0.
"""

from __future__ import annotations

import ctypes
import functools

import cuda_library
import torch
from torch import Tensor

ENTRIES = 2**31 - 1
"""Elements that the matrices of one batch may have together: cuSOLVER counts them in an int."""
NO_VECTORS, LOWER = 0, 0
TYPES = {torch.float32: 0, torch.float64: 1}
"""`cudaDataType` of a dtype."""

_address, _int, _long, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t
_sizes = (ctypes.POINTER(_size), ctypes.POINTER(_size))
_buffers = (_address, _size, _address, _size)
_syev = (_address, _address, _int, _int, _long, _int, _address, _long, _int, _address, _int)
SIGNATURES = {
    "Create": (ctypes.POINTER(_address),),
    "CreateParams": (ctypes.POINTER(_address),),
    "SetStream": (_address, _address),
    "XsyevBatched_bufferSize": (*_syev, *_sizes, _long),
    "XsyevBatched": (*_syev, *_buffers, _address, _long),
}


class Solver:
    """A handle of the library; it lives as long as the process."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, arguments in SIGNATURES.items():
            function = getattr(library, f"cusolverDn{name}")
            function.argtypes, function.restype = arguments, _int
        self._handle, self._params = _address(), _address()
        self._call("Create", self._handle)
        self._call("CreateParams", self._params)

    def eigenvalues(self, stack: Tensor) -> Tensor:
        """Eigenvalues `(b, n)`, ascending, of symmetric matrices `(b, n, n)`, which are overwritten."""
        most = max(1, ENTRIES // stack[0].numel())
        return torch.cat([self._eigenvalues(part) for part in stack.split(most)])

    def _eigenvalues(self, stack: Tensor) -> Tensor:
        assert stack.is_contiguous()
        count, n, _ = stack.shape
        values = stack.new_empty(count, n)
        kind = TYPES[stack.dtype]
        info = torch.empty(count, dtype=torch.int32, device=stack.device)
        of = (
            self._handle,
            self._params,
            NO_VECTORS,
            LOWER,
            n,
            kind,
            stack.data_ptr(),
            n,
            kind,
            values.data_ptr(),
            kind,
        )
        self._work("XsyevBatched", stack, of, (count,), info, count)
        return values

    def _work(
        self, name: str, data: Tensor, of: tuple[object, ...], sizing: tuple[object, ...], info: Tensor, last: object
    ) -> None:
        """Calls a function on the tensor's stream with the working space that it asks for, and waits for its end."""
        stream = torch.cuda.current_stream(data.device).cuda_stream if data.is_cuda else 0
        self._call("SetStream", self._handle, stream)
        on_device, on_host = _size(), _size()
        self._call(f"{name}_bufferSize", *of, on_device, on_host, *sizing)
        space = torch.empty(on_device.value, dtype=torch.uint8, device=data.device)
        host = ctypes.create_string_buffer(max(1, on_host.value))
        self._call(name, *of, space.data_ptr(), on_device, ctypes.addressof(host), on_host, info.data_ptr(), last)
        _converged(name, info)  # while both spaces are there: the call returns before the device is done with them

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, f"cusolverDn{name}")(*arguments)
        if status:
            raise RuntimeError(f"cusolverDn{name} returned {status}")


def _converged(name: str, info: Tensor) -> None:
    """PyTorch's own functions look, too; whoever looks waits for the device."""
    if info.any():
        raise RuntimeError(f"cusolverDn{name}: info {info[info != 0].tolist()[:8]}")


def eigenvalues(stack: Tensor) -> Tensor:
    """Eigenvalues `(b, n)`, ascending, of symmetric matrices `(b, n, n)`, which are overwritten."""
    return _solver().eigenvalues(stack)


@functools.cache
def _solver() -> Solver:
    torch.linalg.svdvals(torch.eye(2, device="cuda"))  # PyTorch loads its cuSOLVER, which then has the name below
    assert torch.version.cuda is not None
    name = f"libcusolver.so.{int(torch.version.cuda.partition('.')[0]) - 1}"
    return cuda_library.found(name, Solver, " with XsyevBatched")
