"""One step's measurement of one stack: every column of the history, from one Gram."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import backend, metrics
from ..counting import (
    Chunk,
    Grams,
    Group,
    Lines,
    RaggedBatch,
    eigenvalue_bounds,
    inertia_bounds,
    resolve_bounds,
    singular_values,
)
from ..metrics import RankBounds, Tolerance
from ..reference import SLACK, Gram, Moments, TopEigenvalue, exact_start, gram, inertia, power_iteration

SPECTRUM_METRICS = {
    "effective_rank": metrics.effective_rank,
    "nuclear_norm": metrics.nuclear_norm,
    "participation_ratio": metrics.participation_ratio,
}
SPECTRUM = (*SPECTRUM_METRICS, "singular_values")
"""What a tracker can be asked to record of the whole spectrum."""


class Measurement(NamedTuple):
    values: Tensor
    """(b, columns) FP64, in the order of `columns`; NaN where a matrix is not finite or a column was not due."""
    sigma: Tensor | None
    """(b, r) FP64 singular values, descending, where they were asked for."""
    basis: Tensor | None
    """(b, r, k) FP64 orthonormal: the warm start of the next step, where the power iteration was used."""


def columns(tolerances: Sequence[Tolerance], spectrum: Sequence[str]) -> list[str]:
    """Names of the columns of `Measurement.values`. The first tolerance's bounds bear no suffix."""
    suffixes = ["", *(f"@{t.suffix}" for t in tolerances[1:])]
    ranks = [f"{bound}{suffix}" for suffix in suffixes for bound in ("rank_lower", "rank_upper")]
    return [
        *ranks,
        "stable_rank",
        "spectral_norm",
        "frobenius_norm",
        "status",
        *(m for m in SPECTRUM_METRICS if m in spectrum),
    ]


def measure(
    stack: Tensor, tolerances: Sequence[Tolerance], spectrum: Sequence[str], due: bool, basis: Tensor | None
) -> Measurement:
    """Measure a stack `(b, r, n)`, r <= n.

    Args:
        stack: matrices of any floating dtype. On CUDA nothing here waits for the host, unless the spectrum is due or
            there is no basis yet.
        tolerances: at least one.
        spectrum: the whole-spectrum metrics that have columns; computed where `due`, NaN otherwise.
        due: compute the whole spectrum this time.
        basis: last step's, if any.
    """
    g = gram(stack)
    r = g.matrix.shape[-1]
    if r == 0 or backend.counting(stack.device, r, "tracking") == "eigenvalues":
        eigenvalues = torch.linalg.eigvalsh(g.matrix.mT)  # symmetric, and in the order that LAPACK wants to have it
        bounds = [eigenvalue_bounds(g, eigenvalues, t) for t in tolerances]
        top = eigenvalues[:, -1].clamp(min=0).sqrt() if r else g.trace
    else:
        found = _top(g, basis)
        bounds = inertia_bounds(g, tolerances, inertia, _interval(found, g.trace))
        top, basis = torch.where(found.certified, found.value.sqrt(), torch.nan), found.basis
    if stack.device.type == "cpu":
        bounds = [resolve_bounds(x, stack, t) for x, t in zip(bounds, tolerances, strict=True)]
    sigma = singular_values(stack, g) if due else None
    return Measurement(row_of(g.moments, bounds, top, spectrum, metrics_of(sigma, spectrum)), sigma, basis)


class RaggedMeasurement(NamedTuple):
    values: Tensor
    """As of `Measurement`, of all matrices."""
    sigma: dict[int, Tensor]
    """Singular values `(r,)` by matrix, where they were asked for."""
    bases: dict[Group, Tensor | None]
    """The warm start of the next step, by group."""


def measure_ragged(
    batch: RaggedBatch,
    matrices: Sequence[Tensor],
    tolerances: Sequence[Tolerance],
    spectrum: Sequence[str],
    due: bool,
    bases: Mapping[Group, Tensor | None],
) -> RaggedMeasurement:
    """Measure all `matrices` of a ragged batch that keeps its Grams; otherwise as `measure`."""
    sigma: dict[int, Tensor] = {}
    new: dict[Group, Tensor | None] = {}
    tops: list[Tensor] = []
    spectra: list[list[Tensor]] = []
    values = []

    def wanted(chunk: Chunk, moments: Moments, grams: Iterator[Grams]) -> list[Lines]:
        found = []
        for group, _, g in grams:
            found.append(_top(g, bases.get(group)))
            new[group] = found[-1].basis
            if due:
                of_group = singular_values(group.stack(matrices), g)
                sigma.update(zip(group.indices, of_group, strict=True))
                spectra.append(metrics_of(of_group, spectrum))
        value, certified = (torch.cat(x) for x in list(zip(*found, strict=True))[:2])
        tops.append(torch.where(certified, value.sqrt(), torch.nan))
        top = _interval(TopEigenvalue(value, certified, value), moments.trace)
        return [batch.lines(chunk, moments, t, top) for t in tolerances]

    for counted in batch.count(wanted):
        metrics_ = [torch.cat(x) for x in zip(*spectra, strict=True)]
        values.append(row_of(counted.moments, counted.bounds, tops.pop(), spectrum, metrics_))
        spectra.clear()
    if batch.empty:
        nothing = measure(matrices[0].new_empty(len(batch.empty), 0, 1), tolerances, spectrum, due, None)
        values.append(nothing.values)
        sigma.update({i: nothing.values.new_empty(0) for i in batch.empty if due})
    return RaggedMeasurement(torch.cat(values)[batch.places], sigma, new)


def _top(g: Gram, basis: Tensor | None) -> TopEigenvalue:
    """lambda_1, warm-started where there is a `basis`."""
    top = exact_start(g.matrix) if basis is None else power_iteration(g.matrix, basis)
    if g.matrix.device.type == "cpu" and not top.certified.all():
        # The basis has lost the top of the spectrum (the weights jumped): look again, from scratch.
        lost = ~top.certified
        fresh = exact_start(g.matrix[lost])
        for old, new in zip(top, fresh, strict=True):
            old[lost] = new
    return top


def _interval(top: TopEigenvalue, trace: Tensor) -> tuple[Tensor, Tensor]:
    return top.value, torch.where(top.certified, top.value * (1 + SLACK), trace)


def metrics_of(sigma: Tensor | None, spectrum: Sequence[str]) -> list[Tensor]:
    return [] if sigma is None else [f(sigma) for name, f in SPECTRUM_METRICS.items() if name in spectrum]


def row_of(
    moments: Moments, bounds: Sequence[RankBounds], top: Tensor, spectrum: Sequence[str], metrics_: Sequence[Tensor]
) -> Tensor:
    """Values `(b, columns)`; `top` is sigma_1 in the Gram's scale, `metrics_` is empty where they are not due."""
    frobenius = moments.trace.sqrt()
    bad, not_due = ~moments.finite, torch.full_like(frobenius, torch.nan)
    values = [
        *(x.double() for bound in bounds for x in (bound.lower, bound.upper)),
        metrics.stable_rank(frobenius, top).masked_fill(bad, torch.nan),
        (top * moments.scale).masked_fill(bad, torch.nan),
        (frobenius * moments.scale).masked_fill(bad, torch.nan),
        torch.stack([x.status for x in bounds]).amax(0).double(),
        *(metrics_ or (not_due for name in SPECTRUM_METRICS if name in spectrum)),
    ]
    return torch.stack(values, dim=-1)


def check_tolerances(tolerance: Tolerance | Sequence[Tolerance] | None) -> tuple[Tolerance, ...]:
    """One tolerance or several, as a tuple; raises `TypeError` or `ValueError` naming the argument."""
    if tolerance is None or isinstance(tolerance, Tolerance):
        return (tolerance or Tolerance(),)
    tolerances = tuple(tolerance) if isinstance(tolerance, Sequence) else ()
    if not tolerances or not all(isinstance(t, Tolerance) for t in tolerances):
        raise TypeError(f"tolerance: expected a fastrank.Tolerance or a sequence of them, not {tolerance!r}")
    if len({t.suffix for t in tolerances}) < len(tolerances):
        raise ValueError(f"tolerance: the same one twice in {tolerance!r}")
    return tolerances


def check_spectrum(spectrum: Sequence[str]) -> tuple[str, ...]:
    """Names of whole-spectrum metrics, as a tuple; raises `TypeError` or `ValueError` naming the argument."""
    if isinstance(spectrum, str):
        raise TypeError(f"spectrum: expected a sequence of names, not the string {spectrum!r}")
    unknown = [name for name in spectrum if name not in SPECTRUM]
    if unknown:
        raise ValueError(f"spectrum: unknown {', '.join(map(repr, unknown))}; choose from {', '.join(SPECTRUM)}")
    return tuple(spectrum)
