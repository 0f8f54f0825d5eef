"""Matrices with known spectra, and the errors of computed ranks and factorisations: for tests, benchmarks and users.

    case = fastrank.testing.make("clustered", 100, 300, seed=1)
    bounds = fastrank.linalg.rank_bounds(case.matrix, case.tolerance)
    truth = fastrank.testing.true_rank(case.matrix, case.tolerance)
    assert fastrank.testing.count_errors(bounds, truth).wrong == 0

Everything is computed on the CPU in FP64. Random numbers come from Philox, a counter-based generator, keyed by the
caller's seed: no global generator is touched, and the same arguments give the same matrix in every process.

`true_rank` is quick, and leaves open what FP64's rounding decides. `ExactMatrix` decides it, in whole numbers.
"""

from .exact import ExactMatrix, exact_residual_squared
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
    "ExactMatrix",
    "TrueRank",
    "cases",
    "clustered",
    "count_errors",
    "exact_residual_squared",
    "factor_error",
    "make",
    "planted",
    "spectrum",
    "true_rank",
    "true_singular_values",
]
