"""Measures: metrics of matrices of any form, made of a norm or of all singular values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..counting import (
    gram_singular_values,
    inertia_bounds,
    over_matrices,
    scaled_singular_values,
    top_singular_value,
)
from ..metrics import RankBounds, Tolerance
from ..reference import TIGHT, Gram, gram, inertia, top_interval
from .arrays import take_matrices
from .plans import by_compiled, compiled
from .sharded import each_way


def bounds_of_gram(g: Gram, tolerance: Tolerance) -> RankBounds:
    """Proven bounds of the ranks `(b,)` of the matrices of which Gram matrices were made, as PyTorch counts them."""
    top = (g.trace, g.trace)
    if tolerance.relative_to == "spectral" and g.matrix.shape[-1]:
        top = top_interval(g.matrix, TIGHT)
    return inertia_bounds(g, [tolerance], inertia, top)[0]


def top_metric(A: Any, metric: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
    """`metric` of ||A||_F and sigma_1, both over a scale, and this scale; NaN where a matrix is not finite."""

    def by_gram(g: Gram) -> tuple[Tensor]:
        return (torch.where(g.finite, metric(g.trace.sqrt(), top_singular_value(g), g.scale), torch.nan),)

    def measure(stack: Tensor) -> tuple[Tensor]:
        return by_gram(gram(stack))

    def by_matrix(A: Any) -> Any:
        matrices = take_matrices(A)
        if not by_compiled(matrices):
            return matrices.answer(over_matrices(matrices.data, measure)[0])
        with compiled(matrices) as batch:
            batch.measure(tops=True)
            trace, top = (torch.from_numpy(batch.found[:, i]) for i in (0, 1))
            values = metric(trace.sqrt(), top.sqrt(), torch.from_numpy(batch.scale))
            values = torch.where(trace.isfinite(), values, torch.nan)
            open_ = torch.from_numpy(batch.without_top()).nonzero().flatten()
        if len(open_):
            chosen = matrices.data[open_] if isinstance(matrices.data, Tensor) else [matrices.data[i] for i in open_]
            values[open_] = over_matrices(chosen, measure)[0]
        return matrices.answer(values)

    return each_way(A, by_matrix, by_gram)


def spectral_metric(A: Any, metric: Callable[[Tensor, Tensor], Tensor], accurate: bool) -> Any:
    """`metric` of the singular values `(b, r)`, divided by a scale, and this scale `(b,)`."""

    def by_matrix(A: Any) -> Any:
        matrices = take_matrices(A)
        return matrices.answer(over_matrices(matrices.data, measure)[0])

    def measure(stack: Tensor) -> tuple[Tensor]:
        return (metric(*scaled_singular_values(stack, accurate=accurate)),)

    if accurate:
        return by_matrix(A)
    return each_way(A, by_matrix, lambda g: (metric(gram_singular_values(g), g.scale),))
