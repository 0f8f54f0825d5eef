"""Sketches of matrices, step by step, as the tests of the kernels want them."""

from __future__ import annotations

import torch
from counting_steps import squares_of

from fastrank import Tolerance, testing
from fastrank.kernels.sketch.sketches import Sketches
from fastrank.kernels.sketch.table import View
from fastrank.reference import sketch as twin

SEED = 2**63 + 2**31 - 2**32 - 1
PAPER = (Tolerance(),)


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def planted(family, m, n, device, seed=0):
    return testing.make(family, m, n, seed=seed).matrix.to(device)


class Steps:
    """Sketches of matrices, step by step; k: a number for all, or one for each."""

    def __init__(self, matrices, k=16, tolerances=PAPER, keys=None, apart=None, integers=False):
        device = matrices[0].device
        keys = range(len(matrices)) if keys is None else keys
        views = [View(0, *m.shape, *m.stride(), key) for m, key in zip(matrices, keys, strict=True)]
        step, skip = torch.zeros((), dtype=torch.int64, device=device), torch.zeros(1, device=device)
        self.tolerances, self.keys = tolerances, list(keys)
        self.ks = [k] * len(matrices) if isinstance(k, int) else list(k)
        dtypes, apart = [m.dtype for m in matrices], apart or [False] * len(matrices)
        given = (squares_of(tolerances), step, skip, SEED, integers)
        self.sketches = Sketches(views, dtypes, self.ks, apart, *given)
        self.tensors = self.sketches.tensors

    def multiply(self, matrices):
        pointers = torch.tensor([m.data_ptr() for m in matrices], device=matrices[0].device)
        for each in self.sketches.passes:
            self.sketches.multiply(each, pointers)

    def __call__(self, matrices):
        self.multiply(matrices)
        self.sketches.conclude()
        self.sketches.rotate()
        self.tensors["step"] += (self.tensors["skip"] == 0).squeeze()

    def turn(self, place, matrix):
        """The matrix as it is multiplied now, with its basis, as the twin has them."""
        right, left, kept, top = (x.cpu().clone() for x in self.sketches.basis(place))
        m, n = matrix.shape
        other = m <= n if min(m, n) <= self.ks[place] else int(self.tensors["step"]) % 2 == 1
        basis = twin.Basis((left if other else right)[None], kept[None].bool(), top[None])
        return (matrix.mT if other else matrix).cpu(), basis

    def of(self, place):
        """Bits of all that is carried of a matrix, and of what is proven."""
        return [x.cpu().clone() for x in (*self.sketches.basis(place), self.sketches.proof[place],
                                          self.sketches.decided[place])]  # fmt: skip


def same(a, b):
    """To the bit; NaN equals NaN."""
    return all(torch.equal(x.nan_to_num(-7.0), y.nan_to_num(-7.0)) for x, y in zip(a, b, strict=True))
