"""Providers of Grams, the first half of a certified rank: our kernels (FP64, or INT8 slices) and cuBLAS's products.

Only the lower triangle of an answer is looked at. cuBLAS takes FP64, so that its matrices are widened first, as a user
would have to; that is part of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import cublas
import torch
from providers import Provider, by_shape, of, wide
from torch import Tensor

from fastrank.backend import FINE
from fastrank.reference import grams as reference


def stock(matrices: list[Tensor]) -> list[Tensor]:
    """Stacked by shape, widened to FP64 and multiplied: on CUDA by cuBLAS, both triangles."""

    def product(stack: Tensor) -> Tensor:
        widened = stack.double()
        return widened @ widened.mT

    return by_shape(matrices, product)


def by_syrk(matrices: list[Tensor]) -> list[Tensor]:
    """One triangle of each, matrix by matrix: half the products of `stock`, and as many launches as matrices."""
    return [cublas.gram(wide(matrix).double()) for matrix in matrices]


def ours(matrices: list[Tensor]) -> list[Tensor]:
    """The twin: what a CPU is served by."""
    return by_shape(matrices, lambda stack: reference.gram(stack).matrix)


class Sliced(NamedTuple):
    """Grams from INT8 slices, and the bounds of their errors that are measured with them."""

    grams: list[Tensor]
    error: Tensor
    """`(b,)` FP64: bound of the Frobenius norm of each Gram's error."""


LARGEST = 1e-7
"""Share of the trace that the benchmark believes of such a bound, some twenty times what is usual."""


def by_kernel(products: int, matrices: list[Tensor]) -> Callable[[], list[Tensor] | Sliced]:
    """Grams from so many `products` of INT8 slices; 0: in FP64.

    Plans and workspace are made once, as a tracker does; what is timed is the launches. The call keeps the matrices:
    launches know only their addresses, and memory may go back to the driver before them.
    """
    from fastrank.kernels.count import Launches

    launches = Launches(matrices, shifts=1, keep=True, products=products)
    workspace = torch.empty(launches.size, dtype=torch.float64, device=launches.device)
    trace = torch.empty(len(matrices), dtype=torch.float64, device=launches.device)
    places = zip(launches.shapes, launches.offsets, strict=True)
    views = [workspace[o : o + s.order**2].view(s.order, s.order)[: s.rows, : s.rows] for s, o in places]

    def run(kept: list[Tensor] = matrices) -> list[Tensor] | Sliced:
        largest = launches.largest()
        launches.sum_grams(workspace, trace, None if largest is None else reference.power_of_two(largest))
        return Sliced(views, launches.error) if products else views

    return run


def relative_error(matrices: list[Tensor], answer: list[Tensor] | Sliced) -> float:
    """Largest error of an element below the diagonal, of the trace; the truth is an FP64 product, row by row.

    Of `Sliced` it is the Frobenius norm of a Gram's error less the answer's own bound, of which `LARGEST` is believed.
    """
    errors = []
    for i, matrix in enumerate(matrices):
        w = wide(matrix).double()
        exact = w @ w.mT
        trace = exact.trace().clamp(min=torch.finfo(w.dtype).tiny)
        if isinstance(answer, Sliced):
            errors.append((answer.grams[i] - exact).norm() / trace - (answer.error[i] / trace).clamp(0, LARGEST))
        else:
            errors.append((answer[i] - exact).tril().abs().max() / trace)
    return max((math.inf if error.isnan() else error.item() for error in errors), default=0.0)


FP64 = torch.float64  # an error of 1e-12 of the trace is beyond any narrower arithmetic
PROVIDERS = (
    Provider("fastrank gram", of(ours), devices=("cpu",), strict=True, products=FP64),
    Provider(
        "fastrank gram kernel", partial(by_kernel, 0), ("triton",), ("cuda",), strict=True, graph=True,
        products=FP64, kernels="fp64",
    ),
    Provider("torch.matmul by shape", of(stock), graph=True, products=FP64, telling=True),
    Provider("cublas dsyrk", of(by_syrk), devices=("cuda",), graph=True, products=FP64, telling=True),
    Provider(
        "fastrank integer gram kernel", partial(by_kernel, FINE), ("triton",), ("cuda",), strict=True, graph=True,
        kernels="integers",
    ),
)  # fmt: skip
