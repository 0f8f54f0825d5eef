"""Stack measurer: measures by PyTorch, on a CPU and wherever the kernels do not serve.

Matrices of equal shape are measured together, as a stack. Every column of the history comes from one Gram of each, but
for a rank that the Gram leaves open and the whole spectrum of an FP64 matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..counting import (
    Group,
    gram_singular_values,
    group,
    inertia_bounds,
    resolve_bounds,
    scaled_singular_values,
)
from ..device import one_thread
from ..metrics import Tolerance
from ..reference import COLUMNS, SLACK, Gram, TopEigenvalue, exact_start, gram, inertia, power_iteration
from ..weights import Source
from .row import columns, metrics_of, row_of

WarmStarts = dict[Group, Tensor | None]
"""For each group of matrices, the basis `(b, r, k)` FP64, orthonormal, from which the next power iteration starts; None
where there is none: r is 0."""


class StackMeasurer:
    """Measures a list of matrices after each step, on whatever device they are.

    Args:
        tolerances, spectrum: what a row has columns for, see `row.columns`.
        device: where all matrices are.
    """

    def __init__(self, tolerances: Sequence[Tolerance], spectrum: Sequence[str], device: torch.device) -> None:
        self._tolerances, self._spectrum, self._device = tolerances, spectrum, device
        self._columns = len(columns(tolerances, spectrum))
        self._groups: list[tuple[Group, Tensor]] = []
        self._grouped_for: list[tuple[torch.Size, torch.dtype]] = []
        self._starts: WarmStarts = {}

    def measure(self, sources: Sequence[Source], due: bool) -> tuple[Tensor, dict[int, Tensor]]:
        """Measures all matrices: ranks, norms and, if it is `due`, the whole spectrum.

        Returns:
            Values `(matrices, columns)` FP64, see `row.columns`; and, if `due`, the singular values `(r,)` FP64 of each
            matrix, by its index.
        """
        matrices = [source.matrix for source in sources]
        now = [(m.shape, m.dtype) for m in matrices]
        if now != self._grouped_for:
            self._groups = [(g, torch.tensor(g.indices, device=self._device)) for g in group(matrices)]
            self._grouped_for = now
        values = torch.empty(len(matrices), self._columns, dtype=torch.float64, device=self._device)
        sigma: dict[int, Tensor] = {}
        starts: WarmStarts = {}
        for g, places in self._groups:
            with one_thread(g.rows):
                m = measure_stack(g.stack(matrices), self._tolerances, self._spectrum, due, self._starts.get(g))
            values[places] = m.values
            starts[g] = m.basis
            if m.sigma is not None:
                sigma.update(zip(g.indices, m.sigma, strict=True))
        self._starts = starts  # of groups that still exist: a matrix of a new shape starts afresh
        return values, sigma

    def warm_starts(self) -> dict[int, Tensor]:
        """The warm start `(r, k)` of each matrix that has one, by its index."""
        return by_matrix(self._starts)

    def load(self, sources: Sequence[Source], starts: Mapping[int, Tensor]) -> None:
        """Go on from the warm starts `starts`, by index, with the matrices as they are now."""
        matrices = [source.matrix for source in sources]
        self._starts = by_group(group(matrices), matrices, starts)


class Measurement(NamedTuple):
    """What came out for a stack."""

    values: Tensor
    """(b, columns) FP64, see `row.row_of`; NaN where a matrix is not finite or a column was not due."""
    sigma: Tensor | None
    """(b, r) FP64 singular values, descending; None if they were not due."""
    basis: Tensor | None
    """(b, r, k) FP64 orthonormal: the warm start of the next step; None where there is none: r is 0."""


def measure_stack(
    stack: Tensor, tolerances: Sequence[Tolerance], spectrum: Sequence[str], due: bool, basis: Tensor | None
) -> Measurement:
    """Measure a stack of matrices.

    The ranks come from the inertia of the Gram, and sigma_1 from a power iteration. On a CPU, the singular values
    decide a rank that this leaves open.

    Args:
        stack: `(b, r, n)`, r <= n, of any floating dtype. On CUDA the host waits, and factors the Grams itself.
        tolerances: at least one.
        spectrum: the metrics of the whole spectrum that have columns.
        due: compute those metrics this time; their columns are NaN otherwise.
        basis: the last step's `Measurement.basis`; None if there is none.
    """
    return measure_grams(gram(stack), tolerances, spectrum, due, basis, stack)


def measure_grams(
    g: Gram,
    tolerances: Sequence[Tolerance],
    spectrum: Sequence[str],
    due: bool,
    basis: Tensor | None,
    stack: Tensor | None = None,
) -> Measurement:
    """Measure the matrices of which these are the Grams. Arguments are as those of `measure_stack`.

    stack: the matrices. None: they are not here, so that open ranks stay open; they are not FP64.
    """
    r, device = g.matrix.shape[-1], g.matrix.device
    if r == 0:
        top, interval = g.trace, (g.trace, g.trace)
    else:
        found = top_of(g, basis)
        interval = interval_of(found, g.trace)
        top, basis = torch.where(found.certified, found.value.sqrt(), torch.nan), found.basis
    bounds = inertia_bounds(g, tolerances, inertia, interval)
    if stack is not None and device.type == "cpu":
        bounds = [resolve_bounds(x, stack, t) for x, t in zip(bounds, tolerances, strict=True)]
    if not due:
        return Measurement(row_of(g.moments, bounds, top, spectrum, []), None, basis)
    if stack is not None:
        sigma, scale = scaled_singular_values(stack, g)
    else:
        sigma, scale = gram_singular_values(g), g.scale
    metrics_ = metrics_of(sigma, spectrum, scale)
    return Measurement(row_of(g.moments, bounds, top, spectrum, metrics_), sigma * scale[:, None], basis)


def top_of(g: Gram, basis: Tensor | None) -> TopEigenvalue:
    """lambda_1 of each Gram by a power iteration, warm-started from `basis`; by all eigenvectors if that is None."""
    top = exact_start(g.matrix) if basis is None else power_iteration(g.matrix, basis)
    if g.matrix.device.type == "cpu" and not top.certified.all():
        # The basis has lost the top of the spectrum (the weights jumped): look again, from scratch.
        lost = ~top.certified
        fresh = exact_start(g.matrix[lost])
        for old, new in zip(top, fresh, strict=True):
            old[lost] = new
    return top


def interval_of(top: TopEigenvalue, trace: Tensor) -> tuple[Tensor, Tensor]:
    """Proven lower and upper bound of lambda_1, `(b,)` each; the upper one is the trace if `top` is not certified."""
    return top.value, torch.where(top.certified, top.value * (1 + SLACK), trace)


def by_matrix(starts: WarmStarts) -> dict[int, Tensor]:
    """Warm starts of groups as those of single matrices `(r, k)`, by the index of the matrix."""
    known = ((g, basis) for g, basis in starts.items() if basis is not None)
    return {i: b for g, basis in known for i, b in zip(g.indices, basis, strict=True)}


def by_group(groups: Iterable[Group], matrices: Sequence[Tensor], starts: Mapping[int, Tensor]) -> WarmStarts:
    """The reverse of `by_matrix`, on the matrices' device, for each group whose matrices all have a warm start: a whole
    basis, not the one vector that the compiled measurer has."""
    return {
        g: torch.stack([starts[i] for i in g.indices]).to(matrices[g.indices[0]].device)
        for g in groups
        if all(i in starts and starts[i].shape[1] == min(COLUMNS, g.rows) for i in g.indices)
    }
