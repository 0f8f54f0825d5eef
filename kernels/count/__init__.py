"""Counting ranks: the FP64 Gram of every matrix of a ragged batch, and the signs of the pivots of its shifted LDL^T.

`Launches` runs the kernels in their order. The sketches and the range finder factor their small matrices by `ldl` too.
"""

from .answers import Answers
from .elimination import UNIT, divide
from .launches import Launches, variants_of_counts, workspace_bytes
from .product import TRITON_TYPES
from .row import row_
from .table import Shape, rows_of

__all__ = [
    "TRITON_TYPES",
    "UNIT",
    "Answers",
    "Launches",
    "Shape",
    "divide",
    "ldl",
    "row_",
    "rows_of",
    "variants_of_counts",
    "workspace_bytes",
]
