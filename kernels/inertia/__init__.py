"""Inertia: how many eigenvalues of Grams are above shifts, by Sylvester's law, from the signs of pivots of an LDL^T.

`Factors` launches the factorisations, in CUDA C++ (`cuda/ldl.cu`) or in Triton; `table` says where Grams are.
"""

from . import elimination, table
from .elimination import UNIT, divide
from .factors import Factors, growth_parts, variants_of_factors
from .ldl import Problems
from .table import Shape, rows_of

__all__ = [
    "UNIT",
    "Factors",
    "Problems",
    "Shape",
    "divide",
    "elimination",
    "growth_parts",
    "rows_of",
    "table",
    "variants_of_factors",
]
