"""A batch of Grams for `inertia.Factors`, without the matrices that they are of."""

from __future__ import annotations

import torch

from fastrank.kernels.inertia import Factors, Problems
from fastrank.kernels.inertia.table import Shape, rows_of


def symmetric(r, seed=0):
    """Positive definite, with eigenvalues from 1 to 1e-6."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(r, r, generator=generator, dtype=torch.float64)).Q
    return (q * torch.logspace(0, -6, r, dtype=torch.float64)) @ q.mT


class Batch:
    """Problems of Grams of these matrices, each with all `shifts`; above the diagonal Grams are NaN."""

    def __init__(self, grams, shifts, device="cpu"):
        self.shapes = [Shape(len(g), len(g), len(g), 1) for g in grams]
        table, size, _ = rows_of([0] * len(grams), self.shapes, self.rows, range(len(grams)))
        workspace = torch.full((size,), torch.nan, dtype=torch.float64)
        self.offsets = table[:, 6].tolist()
        for g, shape, offset in zip(grams, self.shapes, self.offsets, strict=True):
            place = workspace[offset : offset + shape.order**2].view(shape.order, -1)
            place.masked_fill_(torch.ones_like(place).tril() > 0, 0.0)
            place[: len(g), : len(g)] = g.masked_fill(torch.ones_like(g).tril() == 0, torch.nan)
        b, s = len(grams), len(shifts)
        coefficients = torch.tensor([[[0.0, shift] for shift in shifts]] * b, dtype=torch.float64)
        trace = torch.stack([g.trace() for g in grams])
        factors = torch.full((size * s,), torch.nan, dtype=torch.float64)
        counts, growth = torch.full((b, s), -7), torch.full((b, s, 1), -7.0, dtype=torch.float64)
        decided = torch.zeros(b, dtype=torch.int32)
        given = (table, decided, coefficients, trace, workspace, factors, counts, growth)
        self.problems = Problems(*(x.to(device) for x in given))

    @property
    def rows(self):
        return [shape.rows for shape in self.shapes]

    def factors(self, shifts, pairs=0, inverses=False):
        """What factors all of them, with memory of their own for its launches."""
        made = Factors(
            self.rows, range(len(self.rows)), self.problems.table.device, shifts, pairs=pairs, inverses=inverses
        )
        self.problems = self.problems._replace(pairs=pairs, progress=made.progress(shifts))
        return made

    def factor_of(self, i, s):
        order, shifts = self.shapes[i].order, self.problems.counts.shape[1]
        start = shifts * self.offsets[i] + s * order**2
        return self.problems.factors[start : start + order**2].view(order, order).cpu()
