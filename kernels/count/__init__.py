"""Counting ranks: the FP64 Gram of every matrix of a ragged batch, and the signs of the pivots of its shifted LDL^T.

`Launches` runs the kernels in their order. The sketches and the range finder factor their small matrices by `ldl` too.
"""

from .elimination import UNIT, divide
from .launches import PRODUCTS, Launches, variants_of_counts, workspace_bytes
from .product import TRITON_TYPES
from .table import Shape, rows_of

__all__ = [
    "PRODUCTS",
    "TRITON_TYPES",
    "UNIT",
    "Launches",
    "Shape",
    "divide",
    "ldl",
    "rows_of",
    "variants_of_counts",
    "workspace_bytes",
]
