"""Counting ranks: the FP64 Gram of every matrix of a ragged batch, and the signs of its LDL^T's pivots.

`Launches` has the order in which the kernels run. Sketches and the range finder factor their small matrices with `ldl`.
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
