"""The range finder of the randomised SVD, over a ragged batch: `RangeFinder` has the order of the kernels."""

from .range_finder import LAST_PASSES, RangeFinder
from .range_table import Layout

__all__ = [
    "LAST_PASSES",
    "Layout",
    "RangeFinder",
]
