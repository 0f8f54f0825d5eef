"""Providers of FP64 Grams, the first half of a certified rank: our kernel, and cuBLAS's products.

Only the lower triangle of an answer is looked at. cuBLAS takes FP64, so that its matrices are widened first, as a user
would have to; that is part of the time.
"""

from __future__ import annotations

from collections.abc import Callable

import cublas
import torch
from providers import Provider, by_shape, of, wide
from torch import Tensor

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


def by_kernel(matrices: list[Tensor]) -> Callable[[], list[Tensor]]:
    """Plans and workspace are made once, as a tracker does; what is timed is the launches.

    The call keeps the matrices: launches know only their addresses, and memory may go back to the driver before them.
    """
    from fastrank.kernels.count import Launches

    launches = Launches(matrices, shifts=1, keep=True)
    workspace = torch.empty(launches.size, dtype=torch.float64, device=launches.device)
    trace = torch.empty(len(matrices), dtype=torch.float64, device=launches.device)
    places = zip(launches.shapes, launches.offsets, strict=True)
    views = [workspace[o : o + s.order**2].view(s.order, s.order)[: s.rows, : s.rows] for s, o in places]

    def run(kept: list[Tensor] = matrices) -> list[Tensor]:
        largest = launches.largest()
        launches.sum_grams(workspace, trace, None if largest is None else reference.power_of_two(largest))
        return views

    return run


def relative_error(matrices: list[Tensor], answer: list[Tensor]) -> float:
    """Largest error of an element below the diagonal, of the trace; the truth is an FP64 product, row by row."""
    errors = [0.0]
    for matrix, gram in zip(matrices, answer, strict=True):
        w = wide(matrix).double()
        exact = (w @ w.mT).tril()
        errors.append(((gram.tril() - exact).abs().max() / exact.trace().clamp(min=torch.finfo(w.dtype).tiny)).item())
    return max(errors)


FP64 = torch.float64  # an error of 1e-12 of the trace is beyond any narrower arithmetic
PROVIDERS = (
    Provider("fastrank gram", of(ours), devices=("cpu",), strict=True, products=FP64),
    Provider("fastrank gram kernel", by_kernel, ("triton",), ("cuda",), strict=True, graph=True, products=FP64),
    Provider("torch.matmul by shape", of(stock), graph=True, products=FP64, telling=True),
    Provider("cublas dsyrk", of(by_syrk), devices=("cuda",), graph=True, products=FP64, telling=True),
)
