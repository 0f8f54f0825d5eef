"""Counting ranks: the Gram of every matrix of a ragged batch, and the signs of the pivots of its shifted LDL^T.

A Gram is FP64. It is summed in FP64, or put together from exact products of INT8 slices (`grams`).

`Launches` runs the kernels in their order, those of `inertia` among them.
"""

from ..inertia import Shape
from .answers import Answers
from .launches import Launches, variants_of_counts, workspace_bytes
from .product import TRITON_TYPES
from .row import row_

__all__ = [
    "TRITON_TYPES",
    "Answers",
    "Launches",
    "Shape",
    "row_",
    "variants_of_counts",
    "workspace_bytes",
]
