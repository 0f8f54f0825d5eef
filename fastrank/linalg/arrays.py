"""Check and convert what callers pass: tensors, NumPy and CuPy arrays, batched or as ragged lists. Errors name the
argument."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ..arguments import from_numpy
from ..kernels.limits import DTYPES
from ..probing import require
from .sharded import gathered


class Matrices(NamedTuple):
    """Input in the form the library works on, with what is needed to return answers in the caller's form."""

    data: Tensor | list[Tensor]
    """`(b, m, n)`, or the 2-D tensors of a ragged list."""
    batch_shape: torch.Size
    """Shape of the answers: the leading dimensions of a batched input, `(len,)` of a list."""
    kind: str
    """`"torch"`, `"numpy"` or `"cupy"`."""

    def answer(self, values: Tensor) -> Any:
        """`values` `(b, ...)` as the caller's kind of array, `(*batch_shape, ...)`."""
        return to_kind(values.reshape(self.batch_shape + values.shape[1:]), self.kind)


def take_matrices(A: Any, name: str = "A") -> Matrices:
    """Check `A` and bring it into the library's form, without a copy where that is possible. DTensors are gathered.

    Raises:
        TypeError: `A` is not an array or a list of arrays, is sparse, on the meta device, or not of a real
            floating dtype.
        ValueError: `A` has fewer than two dimensions, or an element of a list has other than two; or this
            process has no part in a DTensor.
        RuntimeError: the arithmetic of a device is not what proofs assume, see `fastrank.probing`.
    """
    A = gathered(A, name)
    if isinstance(A, list | tuple):
        taken = [_take(a, f"{name}[{i}]", listed=True) for i, a in enumerate(A)]
        for device in {matrix.device for matrix, _ in taken}:
            require(device)
        kinds = {kind for _, kind in taken} or {"torch"}
        if len(kinds) > 1:
            raise TypeError(f"{name}: one list mixes {' and '.join(sorted(kinds))} arrays; use one kind")
        return Matrices([m for m, _ in taken], torch.Size([len(taken)]), kinds.pop())
    tensor, kind = _take(A, name)
    require(tensor.device)
    # The size of the batch is spelled out: reshape(-1, ...) is ambiguous for a tensor without elements.
    return Matrices(tensor.reshape(tensor.shape[:-2].numel(), *tensor.shape[-2:]), tensor.shape[:-2], kind)


def to_kind(values: Tensor, kind: str) -> Any:
    """Return a tensor as an array of `kind`, see `Matrices`."""
    if kind == "numpy":
        return values.numpy()
    if kind == "cupy":
        import cupy

        return cupy.from_dlpack(values)
    return values


def refuse(tensor: Tensor, name: str, *, listed: bool = False) -> None:
    """Raise what `take_matrices` does where a tensor, alone or in a list, holds no matrices, whatever its values."""
    if tensor.is_nested:
        raise TypeError(f"{name}: a nested tensor is not supported; pass list({name}.unbind())")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: sparse layout {tensor.layout} is not supported; pass {name}.to_dense()")
    if tensor.dtype not in DTYPES:
        names = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise TypeError(f"{name}: dtype {dtype} is not supported; convert to one of {names}")
    if listed and tensor.ndim != 2:
        raise ValueError(f"{name}: a list holds 2-D matrices; this has shape {tuple(tensor.shape)}")
    if tensor.ndim < 2:
        raise ValueError(f"{name}: needs at least two dimensions (..., m, n); this has shape {tuple(tensor.shape)}")


def _take(A: Any, name: str, *, listed: bool = False) -> tuple[Tensor, str]:
    """Check one array, and return it as a tensor without gradient, with its kind."""
    if isinstance(A, Tensor):
        tensor, kind = A.detach().resolve_neg(), "torch"
    elif isinstance(A, np.ndarray | np.generic):
        tensor, kind = from_numpy(np.asarray(A), name), "numpy"
    elif type(A).__module__.partition(".")[0] == "cupy":
        tensor, kind = from_dlpack(A), "cupy"
    else:
        raise TypeError(f"{name}: expected a tensor, an array or a list of 2-D ones, not {type(A).__name__}")
    if tensor.device.type == "meta":
        raise TypeError(f"{name}: a tensor on the meta device has no values")
    refuse(tensor, name, listed=listed)
    return tensor, kind


def as_threshold(value: Any, name: str, shape: torch.Size, device: torch.device) -> Tensor | float | None:
    """Check `atol` or `rtol`: None, a number, or a tensor on `device` that broadcasts to the batch `shape`. A tensor
    keeps its dtype, with which `torch.linalg.matrix_rank` compares.

    Raises:
        TypeError: neither a real number nor a real array. ValueError: negative, NaN, or of another shape.
    """
    if value is None:
        return None
    if isinstance(value, int | float):
        if not value >= 0:
            raise ValueError(f"{name}: must be at least 0, not {value}")
        return float(value)
    if not isinstance(value, Tensor | np.ndarray | np.generic):
        raise TypeError(f"{name}: expected a number or a tensor, not {value!r}")
    tensor = value if isinstance(value, Tensor) else from_numpy(np.asarray(value), name)
    tensor = tensor.detach().to(device)
    if tensor.is_complex():
        raise TypeError(f"{name}: expected real values, not {tensor.dtype}")
    if not (tensor >= 0).all():
        raise ValueError(f"{name}: must be at least 0 everywhere")
    if tensor.ndim > len(shape) or any(
        t not in (1, s) for t, s in zip(reversed(tensor.shape), reversed(shape), strict=False)
    ):
        raise ValueError(f"{name}: shape {tuple(tensor.shape)} does not broadcast to the batch {tuple(shape)}")
    return tensor if isinstance(value, Tensor) or tensor.ndim else tensor.item()
