"""Counting ranks: the FP64 Gram of every matrix of a ragged batch, and the signs of the pivots of its shifted LDL^T.

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
