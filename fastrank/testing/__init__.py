"""Matrices with known spectra, and the errors of computed ranks and factorisations: for tests, benchmarks and users.

    case = fastrank.testing.make("clustered", 100, 300, seed=1)
    bounds = fastrank.linalg.rank_bounds(case.matrix, case.tolerance)
    truth = fastrank.testing.true_rank(case.matrix, case.tolerance)
    assert fastrank.testing.count_errors(bounds, truth).wrong == 0

Everything is computed on the CPU in FP64. Random numbers come from Philox, a counter-based generator, keyed by the
caller's seed: no global generator is touched, and the same arguments give the same matrix in every process.
"""

from .matrices import FAMILIES, SPECTRA, Case, cases, clustered, make, planted, spectrum
from .truth import (
    CountErrors,
    TrueRank,
    count_errors,
    factor_error,
    true_rank,
    true_singular_values,
)

__all__ = [
    "FAMILIES",
    "SPECTRA",
    "Case",
    "CountErrors",
    "TrueRank",
    "cases",
    "clustered",
    "count_errors",
    "factor_error",
    "make",
    "planted",
    "spectrum",
    "true_rank",
    "true_singular_values",
]
