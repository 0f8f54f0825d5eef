"""Symmetric matrices in panels, as `fastrank.kernels.cpu.tiles` has them, and the kernels on one of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from fastrank.counting import CompiledBatch


def to_panels(dense):
    """The lower triangle of a symmetric matrix `(r, r)`, FP64."""
    r = len(dense)
    padded = np.zeros((-(-r // 8) * 8,) * 2)
    padded[:r, :r] = dense
    return np.concatenate([np.zeros(0), *(padded[i : i + 8, : i + 8].T.ravel() for i in range(0, r, 8))])


def from_panels(g, r):
    """The reverse: `(r, r)`, with zeros above the diagonal. What is beyond the matrix has to be zero."""
    padded = np.zeros((-(-r // 8) * 8,) * 2)
    start = 0
    for i in range(0, r, 8):
        end = start + 8 * (i + 8)
        padded[i : i + 8, : i + 8] = g[start:end].reshape(i + 8, 8).T
        start = end
    assert not padded[r:].any()
    return torch.from_numpy(np.tril(padded[:r, :r]))


def gram_of(matrix):
    """The Gram of a matrix, as the kernels have it: the lower triangle, in the scale of the batch."""
    batch = CompiledBatch(matrix[None])
    batch.measure()
    r = min(matrix.shape)
    return from_panels(batch._grams, r), batch.found[0, 0]


def top_of(matrix, start=None, exact=1e-13):
    """theta, lower and upper bound of lambda_1, of the Gram of a matrix; and the vector that was found `(r,)`."""
    batch = CompiledBatch(matrix[None], exact=exact)
    own = batch.places[0]
    batch.vectors[own] = 0.0 if start is None else start
    batch.measure(tops=True)
    return batch.found[0, 1:].tolist(), batch.vectors[own]


@cache
def callable_(kernel):
    """A kernel that Python can call, too: those that only others call are compiled without that."""
    from numba import njit

    return njit(error_model="numpy")(kernel.py_func)


def inertia_of(dense, shift):
    """Count of the eigenvalues of a symmetric matrix above a shift, and growth."""
    from fastrank.kernels.cpu import ldl, tiles

    r = len(dense)
    factors, scratch = np.full(tiles.size(r), np.nan), np.full(ldl.scratch_size(r), np.nan)
    trace = float(np.trace(dense))
    return callable_(ldl.inertia)(to_panels(dense), 0, r, float(shift), trace, factors, scratch)
