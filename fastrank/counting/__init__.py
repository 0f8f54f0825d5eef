"""Count numerical ranks and prove the counts, for `fastrank.linalg` and `fastrank.tracking`.

PyTorch measures stacks of matrices of one shape (`group`, `over_matrices`); the kernels of a CUDA device measure ragged
batches (`RaggedBatch`), and `bounds` turns the counts of either into proven bounds. The kernels for CPUs do both
(`CompiledBatch`). What a count leaves open, `singular` decides by verified singular values.
"""

from .batch import WORKSPACE, Group, chunk_size, group, over_matrices
from .bounds import (
    LARGEST_TAU,
    TRACE,
    Affine,
    Shifts,
    counted,
    inertia_bounds,
    shifts_around,
    top_error,
)
from .compiled import CompiledBatch
from .growth import Assumed, Number, recounted, residual, unpivoted
from .packing import packed
from .ragged import BUDGET, Chunk, GroupGrams, RaggedBatch, ShiftPair, signature
from .singular import is_open, resolve_bounds, singular_value_interval
from .spectrum import gram_singular_values, scaled_singular_values, singular_values, top_singular_value
from .workspace import workspace_of_thread

__all__ = [
    "BUDGET",
    "LARGEST_TAU",
    "TRACE",
    "WORKSPACE",
    "Affine",
    "Assumed",
    "Chunk",
    "CompiledBatch",
    "Group",
    "GroupGrams",
    "Number",
    "RaggedBatch",
    "ShiftPair",
    "Shifts",
    "chunk_size",
    "counted",
    "gram_singular_values",
    "group",
    "inertia_bounds",
    "is_open",
    "over_matrices",
    "packed",
    "recounted",
    "residual",
    "resolve_bounds",
    "scaled_singular_values",
    "shifts_around",
    "signature",
    "singular_value_interval",
    "singular_values",
    "top_error",
    "top_singular_value",
    "unpivoted",
    "workspace_of_thread",
]
