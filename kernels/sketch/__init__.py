"""Sketches: bases that are carried from step to step, and what their products with the weights prove.

`Sketches` has the order in which the kernels run. `table` lays out the rows that the fused step and the range finder
read as well; `strip` is what the sketch and the fused step have in common.
"""

from .conclude import DEAD
from .proof import order_of
from .rotate import rotate_
from .sketch import sketch_
from .sketch_gram import product_grams_
from .sketches import Sketches, variants_of_sketches
from .table import Pass

__all__ = [
    "DEAD",
    "Pass",
    "Sketches",
    "order_of",
    "product_grams_",
    "rotate_",
    "sketch",
    "sketch_",
    "strip",
    "table",
    "variants_of_sketches",
]
