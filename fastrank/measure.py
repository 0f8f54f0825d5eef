"""One step's measurement of one stack: every column of the history, from one Gram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastrank import backend, metrics
from fastrank.bounds import eigenvalue_bounds, inertia_bounds, resolve_bounds
from fastrank.metrics import RankBounds, Tolerance
from fastrank.reference.gram import Gram, gram
from fastrank.reference.inertia import inertia
from fastrank.reference.power import SLACK, exact_start, power_iteration
from fastrank.spectrum import singular_values

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
        eigenvalues = torch.linalg.eigvalsh(g.matrix)
        bounds = [eigenvalue_bounds(g, eigenvalues, t) for t in tolerances]
        top = eigenvalues[:, -1].clamp(min=0).sqrt() if r else g.trace
    else:
        bounds, top, basis = _by_inertia(g, tolerances, basis)
    if stack.device.type == "cpu":
        bounds = [resolve_bounds(x, stack, t) for x, t in zip(bounds, tolerances, strict=True)]
    frobenius = g.trace.sqrt()
    sigma = singular_values(stack) if due else None
    bad, not_due = ~g.finite, torch.full_like(frobenius, torch.nan)
    values = [
        *(x.double() for bound in bounds for x in (bound.lower, bound.upper)),
        metrics.stable_rank(frobenius, top).masked_fill(bad, torch.nan),
        (top * g.scale).masked_fill(bad, torch.nan),
        (frobenius * g.scale).masked_fill(bad, torch.nan),
        torch.stack([x.status for x in bounds]).amax(0).double(),
        *(not_due if sigma is None else f(sigma) for name, f in SPECTRUM_METRICS.items() if name in spectrum),
    ]
    return Measurement(torch.stack(values, dim=-1), sigma, basis)


def _by_inertia(
    g: Gram, tolerances: Sequence[Tolerance], basis: Tensor | None
) -> tuple[list[RankBounds], Tensor, Tensor]:
    """Bounds, sigma_1 (NaN where it is not certified) and the next basis, from factorisations alone."""
    top = exact_start(g.matrix) if basis is None else power_iteration(g.matrix, basis)
    if g.matrix.device.type == "cpu" and not top.certified.all():
        # The basis has lost the top of the spectrum (the weights jumped): look again, from scratch.
        lost = ~top.certified
        fresh = exact_start(g.matrix[lost])
        for old, new in zip(top, fresh, strict=True):
            old[lost] = new
    ceiling = torch.where(top.certified, top.value * (1 + SLACK), g.trace)
    bounds = inertia_bounds(g, tolerances, inertia, (top.value, ceiling))
    return bounds, torch.where(top.certified, top.value.sqrt(), torch.nan), top.basis


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
