"""A row of the history: which columns it has, and how they are made from what was measured of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..arguments import check_share
from ..metrics import RankBounds, Tolerance
from ..reference import Moments

SPECTRUM_METRICS = {
    "effective_rank": metrics.effective_rank,
    "nuclear_norm": metrics.nuclear_norm,
    "participation_ratio": metrics.participation_ratio,
}
SPECTRUM = (*SPECTRUM_METRICS, "singular_values")
"""Names that the tracker's argument `spectrum` may have."""
ENERGY = "energy_rank@"
"""How the names of energy ranks begin that `check_spectrum` adds to those; the energy follows."""


def spectrum_metrics(spectrum: Sequence[str]) -> dict[str, Callable[[Tensor], Tensor]]:
    """The metrics of the whole spectrum that `spectrum` names, by the names of their columns, in the order of these.
    The first energy rank's column has no suffix."""
    found: dict[str, Callable[[Tensor], Tensor]]
    found = {name: metric for name, metric in SPECTRUM_METRICS.items() if name in spectrum}
    energies = [name for name in spectrum if name.startswith(ENERGY)]
    for i, name in enumerate(energies):
        column = name if i else ENERGY.removesuffix("@")
        found[column] = partial(metrics.energy_rank, energy=float(name.removeprefix(ENERGY)))
    return found


def columns(tolerances: Sequence[Tolerance], spectrum: Sequence[str]) -> tuple[str, ...]:
    """Names of the measured columns, in their order. The bounds of the first tolerance have no suffix."""
    suffixes = ["", *(f"@{t.suffix}" for t in tolerances[1:])]
    ranks = [f"{bound}{suffix}" for suffix in suffixes for bound in ("rank_lower", "rank_upper")]
    return (
        *ranks,
        "stable_rank",
        "spectral_norm",
        "frobenius_norm",
        "status",
        *spectrum_metrics(spectrum),
    )


def metrics_of(sigma: Tensor, spectrum: Sequence[str], scale: Tensor | float = 1.0) -> list[Tensor]:
    """The `spectrum_metrics`, from singular values `(..., r)` over `scale` `(...)`."""
    found = {name: metric(sigma) for name, metric in spectrum_metrics(spectrum).items()}
    return [value * scale if name == "nuclear_norm" else value for name, value in found.items()]


def row_of(
    moments: Moments, bounds: Sequence[RankBounds], top: Tensor, spectrum: Sequence[str], metrics_: Sequence[Tensor]
) -> Tensor:
    """Measured columns of the rows of b matrices, `(b, columns)` FP64, in the order of `columns`.

    Args:
        moments: of the matrices' Grams: trace, scale, and which matrices are finite.
        bounds: of the ranks, for each tolerance.
        top: sigma_1 `(b,)` in the Gram's scale; NaN where it is not known.
        spectrum: the metrics of the whole spectrum that have columns.
        metrics_: the values of those metrics, `(b,)` each; empty if they are not due, and then their columns are NaN.

    For a matrix that is not finite, bounds are -1, and norms and metrics are NaN.
    """
    frobenius = moments.trace.sqrt()
    bad, not_due = ~moments.finite, torch.full_like(frobenius, torch.nan)
    values = [
        *(x.double() for bound in bounds for x in (bound.lower, bound.upper)),
        metrics.stable_rank(frobenius, top).masked_fill(bad, torch.nan),
        (top * moments.scale).masked_fill(bad, torch.nan),
        (frobenius * moments.scale).masked_fill(bad, torch.nan),
        torch.stack([x.status for x in bounds]).amax(0).double(),
        *(metrics_ or (not_due for _ in spectrum_metrics(spectrum))),
    ]
    return torch.stack(values, dim=-1)


def check_tolerances(tolerance: Tolerance | Sequence[Tolerance] | None) -> tuple[Tolerance, ...]:
    """One tolerance or several as a tuple, the default for None; `TypeError` or `ValueError` names the argument."""
    if tolerance is None or isinstance(tolerance, Tolerance):
        return (tolerance or Tolerance(),)
    tolerances = tuple(tolerance) if isinstance(tolerance, Sequence) else ()
    if not tolerances or not all(isinstance(t, Tolerance) for t in tolerances):
        raise TypeError(f"tolerance: expected a fastrank.Tolerance or a sequence of them, not {tolerance!r}")
    if len({t.suffix for t in tolerances}) < len(tolerances):
        raise ValueError(f"tolerance: the same one twice in {tolerance!r}")
    return tolerances


def check_spectrum(spectrum: Sequence[str], energy: Any = ()) -> tuple[str, ...]:
    """Names of whole-spectrum metrics, and then of the energy ranks of one `energy` or several, as a tuple.

    Raises:
        TypeError, ValueError: an argument, which is named, is of the wrong type or out of range.
    """
    if isinstance(spectrum, str) or not isinstance(spectrum, Iterable):
        raise TypeError(f"spectrum: expected a sequence of names from {', '.join(SPECTRUM)}, not {spectrum!r}")
    spectrum = tuple(spectrum)
    unknown = [name for name in spectrum if name not in SPECTRUM]
    if unknown:
        raise ValueError(f"spectrum: unknown {', '.join(map(repr, unknown))}; choose from {', '.join(SPECTRUM)}")
    single = isinstance(energy, int | float | str | np.number) or not isinstance(energy, Sequence)
    energies = [check_share(x, "energy") for x in ([energy] if single else energy)]
    if len(set(energies)) < len(energies):
        raise ValueError(f"energy: the same one twice in {energy!r}")
    return (*spectrum, *(f"{ENERGY}{x!r}".removesuffix(".0") for x in energies))
