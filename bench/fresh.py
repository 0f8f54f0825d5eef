"""Other matrices than a workload's, of the same shapes, for calls that were timed to answer once more.

A call that answers from memory, or a graph that does not read its inputs, is right on the matrices it was checked with
and nowhere else. So when a row has been timed, the very buffers that its calls read get other values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from workloads import Matrices, orthonormal, trained

MOST_PLANTED = 64
"""Singular values of a matrix that are not zero: few, so that planting them costs little beside any SVD."""


def other(problem: Matrices) -> Matrices:
    """Matrices of the shapes, dtype and device of the problem's, with singular values of their own.

    A matrix has at most half the singular values that its shape allows, planted as in a network in training and scaled
    by a power of two, and zeros: its rank, norm and spectrum all differ from what they were.
    """
    generator = torch.Generator().manual_seed(1)
    factors: dict[torch.Size, tuple[Tensor, Tensor]] = {}
    matrices, sigmas = [], []
    for i, matrix in enumerate(problem.matrices):
        rows, cols = matrix.shape
        planted = max(1, min(MOST_PLANTED, min(rows, cols) // 2))
        if matrix.shape not in factors:
            left, right = (orthonormal(side, planted, generator, matrix.device) for side in (rows, cols))
            factors[matrix.shape] = left, right
        left, right = factors[matrix.shape]
        sigma = torch.zeros(min(rows, cols), dtype=torch.float64)
        sigma[:planted] = 2.0 ** (1 + i % 3) * trained(planted, generator)
        matrices.append(((left * sigma[:planted].to(matrix.device)) @ right.mT).to(matrix.dtype))
        sigmas.append(sigma)
    largest = max(max(matrix.shape) for matrix in matrices)
    return Matrices(matrices, sigmas, math.sqrt(largest) * torch.finfo(matrices[0].dtype).eps)
