"""A step of counting by the kernels alone, as a tracker launches it, for tests of the kernels."""

from __future__ import annotations

import torch

from fastrank import Tolerance
from fastrank.kernels.count import Answers, Launches, row_

FP64 = torch.float64
TOLERANCES = (Tolerance(), Tolerance(0.3, "spectral"), Tolerance(0.5, "absolute"))
KINDS = {"frobenius": 0.0, "spectral": 1.0, "absolute": 2.0}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FP64)


def with_spectrum(sigma, n, seed=0):
    """A matrix (r, n), FP32, with these singular values up to rounding."""
    r = len(sigma)
    left, right = (torch.linalg.qr(noise(size, r, seed=seed + i)).Q for i, size in enumerate((r, n)))
    return (left * torch.as_tensor(sigma, dtype=FP64) @ right.mT).float()


def squares_of(tolerances):
    most = {"frobenius": 2.0, "spectral": 2.0, "absolute": 1e150}
    rows = [(KINDS[t.relative_to], min(t.value, most[t.relative_to]) ** 2) for t in tolerances]
    return torch.tensor(rows, dtype=FP64)


def nothing_known(b, tolerances=TOLERANCES):
    return torch.tensor([[torch.nan, 0.0, torch.inf, *[-1.0, 2.0**53] * len(tolerances)]] * b, dtype=FP64)


class Step:
    """A step's launches for some matrices, in chunks, and what they read and write."""

    def __init__(
        self, matrices, tolerances=TOLERANCES, proof=None, decided=None, chunks=None, more=0, products=0
    ):  # fmt: skip
        self.matrices, self.tolerances, self.device = matrices, tolerances, matrices[0].device
        b, shifts = len(matrices), 2 * (len(tolerances) + 1)
        self.decided = torch.tensor(decided or [0] * b, dtype=torch.int32, device=self.device)
        chunks = chunks or [range(b)]
        given = {"keep": True, "decided": self.decided, "products": products}
        self.chunks = [Launches(matrices, shifts, only=c, **given) for c in chunks]
        width = max(shape.order for shape in self.chunks[0].shapes)
        orders = torch.tensor([shape.rows for shape in self.chunks[0].shapes])
        self.noise = (noise(b, width, seed=9) * (torch.arange(width) < orders[:, None])).to(self.device)
        self.vectors = torch.stack([self.noise, torch.full_like(self.noise, torch.nan)])
        self.proof = (nothing_known(b, tolerances) if proof is None else proof).to(self.device)
        self.workspace = self.full(max(c.size for c in self.chunks))
        self.answers = Answers.of(b, len(tolerances), self.chunks[0].parts, self.device)
        for tensor in self.answers:
            tensor.fill_(torch.nan if tensor.is_floating_point() else -7)
        self.values = self.full(b, 2 * len(tolerances) + 4 + more)
        self.step = torch.tensor(5, device=self.device)
        self.skip = torch.zeros(1, dtype=torch.float32, device=self.device)
        self.kinds = squares_of(tolerances).to(self.device)

    def full(self, *shape):
        return torch.full(shape, torch.nan, dtype=FP64, device=self.device)

    def shift(self, chunk):
        chunk.make_grams(self.workspace)
        chunk.finish_grams(self.workspace)
        chunk.multiply(self.workspace, self.vectors, self.proof)
        self.last = self.vectors.clone()  # as `multiply` has left them
        chunk.shift(self.workspace, self.vectors, self.noise, self.kinds, self.proof, self.answers)

    def run(self):
        for chunk in self.chunks:
            self.shift(chunk)
            problems = chunk.problems(self.workspace, *self.answers.counted)
            chunk.factor(problems)
            chunk.recount(problems, self.answers.limits)
        row_(self.values, self.chunks[0].table, self.decided, self.proof, self.answers, self.step, self.skip)
        return self.values
