"""The range finder of the randomised SVD, over a ragged batch: `RangeFinder` runs the kernels in their order."""

from .range_finder import LAST_PASSES, RangeFinder
from .range_table import Layout

__all__ = [
    "LAST_PASSES",
    "Layout",
    "RangeFinder",
]
