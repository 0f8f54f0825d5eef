"""Sketches: bases that are carried from step to step, and what their products with the weights prove.

`Sketches` has the order in which the kernels run. `table` lays out the rows that those of a step, and of the range
finder, read as well.
"""

from .conclude import DEAD
from .lift import lift_
from .proof import order_of
from .rotate import rotate_
from .sketch import as_rows, place, sketch_, tile_of
from .sketch_gram import product_grams_
from .sketches import Sketches, variants_of_sketches

__all__ = [
    "DEAD",
    "Sketches",
    "as_rows",
    "lift_",
    "order_of",
    "place",
    "product_grams_",
    "rotate_",
    "sketch",
    "sketch_",
    "table",
    "tile_of",
    "variants_of_sketches",
]
