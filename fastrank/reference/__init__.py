"""The algorithm of every kernel in plain PyTorch: the specification of the kernels, and the path for CPUs."""

from . import noise, sketch, sketch_top
from .again import MARGIN, MOST, SPARE, again, unpivoted_terms
from .grams import Gram, Moments, divided, gram, normalized, power_of_two, scaled_up, widened
from .ldl import inertia, residual_terms, unpivoted_inertia
from .lowrank import gaussian, randomized_svd, residual_norm
from .narrow_svd import NEAR, RANGE, full_precision, narrow_residual_norm, narrow_svd
from .packed import packed_gram, packed_size, unpacked
from .power import COLUMNS, SLACK, TIGHT, TopEigenvalue, exact_start, kato_bound, power_iteration, top_interval
from .residual import UNIT, product_residual
from .sgd import stacked_sgd_
from .slices import integer_gram

__all__ = [
    "COLUMNS",
    "MARGIN",
    "MOST",
    "NEAR",
    "RANGE",
    "SLACK",
    "SPARE",
    "TIGHT",
    "UNIT",
    "Gram",
    "Moments",
    "TopEigenvalue",
    "again",
    "divided",
    "exact_start",
    "full_precision",
    "gaussian",
    "gram",
    "inertia",
    "integer_gram",
    "kato_bound",
    "narrow_residual_norm",
    "narrow_svd",
    "noise",
    "normalized",
    "packed_gram",
    "packed_size",
    "power_iteration",
    "power_of_two",
    "product_residual",
    "randomized_svd",
    "residual_norm",
    "residual_terms",
    "scaled_up",
    "sketch",
    "sketch_top",
    "stacked_sgd_",
    "top_interval",
    "unpacked",
    "unpivoted_inertia",
    "unpivoted_terms",
    "widened",
]
