"""Ranks, norms and randomised SVDs of batches of matrices.

`A` is a tensor `(..., m, n)` in float16, bfloat16, float32 or float64, or a list of 2-D tensors of different shapes
(answers then come as one 1-D tensor, or a list of matrices). NumPy and CuPy arrays are accepted in the same forms, and
the answers are then arrays of the same kind. Matrices are taken at the values they hold; the arithmetic and the metrics
are FP64. Answers carry no gradient; no argument is modified.

A matrix that holds NaN or Inf has no rank and no norm: its metrics are NaN, its bounds -1 with status `NONFINITE`, and
the other matrices of the batch are answered as if it were not there. Of finite matrices, only singular values and norms
beyond the range of FP64 are Inf.

DTensors, in any placement, are accepted where tensors are, alone or in lists. The call is then a collective one: all
ranks of a DTensor's mesh have to make it, with the same arguments, and all get the answer, in plain tensors. It moves
the matrices themselves, all of a list before the first is measured, or only their Gram matrices where that takes fewer
bytes (`sharded.gram_is_smaller`).

After `torch.set_flush_denormal(True)`, what is proven of a matrix is still true of the values it holds. But singular
values and norms that are subnormal in FP64 are then 0, and `torch.linalg.matrix_rank`, which `matrix_rank` calls where
rounding decides, takes subnormal numbers for zero.

Inside `torch.compile(fullgraph=True)`, `torch.export` and `torch.func` every function is an operator,
`torch.ops.fastrank.NAME`, with the same answers. There it takes tensors only, no DTensors, and lists with a matrix at
least; slices of `vmap` are answered as if each were alone. `import fastrank.linalg.operators` registers operators in a
process that only loads what was exported.

Every function raises `TypeError` for integer, boolean, complex, sparse or meta input and `ValueError` for fewer than
two dimensions, and on a rank that is not in the mesh of a DTensor, naming the argument. They raise `RuntimeError` on a
device whose arithmetic is not what the proofs assume (see `fastrank.probing`).
"""

from .functions import (
    LowRankSVD,
    effective_rank,
    energy_rank,
    matrix_rank,
    nuclear_norm,
    participation_ratio,
    rank_bounds,
    spectral_norm,
    stable_rank,
    svd_lowrank,
    svdvals,
)

__all__ = [
    "LowRankSVD",
    "effective_rank",
    "energy_rank",
    "matrix_rank",
    "nuclear_norm",
    "participation_ratio",
    "rank_bounds",
    "spectral_norm",
    "stable_rank",
    "svd_lowrank",
    "svdvals",
]
