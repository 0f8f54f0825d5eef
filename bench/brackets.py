"""How many ranks the count leaves open, and how many it gives up, by the size of the matrices.

    python bench/brackets.py [--orders 512 1024 2048 4096] [--matrices 100] [--device cuda] [--seed 0]

Square FP64 matrices Q diag(sigma) with Haar-distributed Q, for spectra that have singular values on both sides of tau,
or Gaussian ones; each with a tolerance of its own, from 1e-3 to 0.05 of ||W||_F. On a CPU PyTorch's factors without
pivots (`fastrank.reference.unpivoted_inertia`) stand for those of the kernels; with TRITON_INTERPRET=1 the kernels
count there, slowly. Exits with 1 if a bound is false.

    open        the bounds are proven and differ: a singular value is closer to tau than the count can tell
    fallback    nothing is proven, as factors have grown more than was allowed for, and once more at another shift
    again       matrices that were counted a second time, where it is known

By the twin, with --seed 5:

    r       matrices    open    fallback    again
    512     200         0.5 %   0           0
    1024    200         0       0           0.5 %
    2048    60          3.3 %   0           3.3 %
    4096    30          0       0           0
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass
from unittest import mock

import torch
from torch import Tensor

from fastrank import Status, Tolerance, backend, linalg, testing
from fastrank.kernels.count import Launches
from fastrank.kernels.count.again import ABOVE
from fastrank.kernels.inertia import Problems
from fastrank.reference import Moments, again, unpivoted_inertia

FAMILIES = ("geometric", "log_uniform", "arithmetic", "noisy_low_rank", "gaussian")
CLOSE = 1e-11
"""Relative distance from tau below which a singular value may be on either side, as made and rounded to FP64."""


@dataclass
class Tally:
    matrices: int = 0
    wrong: int = 0
    open: int = 0
    fallback: int = 0
    again: int = 0


def made(r: int, count: int, device: torch.device, seed: int) -> Iterator[tuple[Tensor, Tensor, Tolerance]]:
    """So many matrices (r, r), their singular values and their tolerances. Those of one Q come one after the other."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.empty(0)
    for i in range(count):
        family = FAMILIES[i % len(FAMILIES)]
        if i % len(FAMILIES) == 0:
            q = torch.linalg.qr(torch.randn(r, r, generator=generator, dtype=torch.float64).to(device)).Q
        tolerance = Tolerance(1e-3 * 50 ** float(torch.rand(1, generator=generator)))
        if family == "gaussian":
            w = torch.randn(r, r, generator=generator, dtype=torch.float64).to(device)
            yield w, torch.linalg.eigvalsh(w @ w.mT).clamp(min=0).sqrt(), tolerance
        else:
            sigma = testing.spectrum(family, r, seed=seed + i).to(device)
            yield q * sigma, sigma, tolerance


class Twin:
    """Stands for the kernels on a CPU, for one matrix at a time: its Gram, and factors without pivots, by PyTorch.

    Attributes:
        again: whether something was counted a second time.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.gram = matrix @ matrix.mT
        self.again = False

    @contextmanager
    def serving(self) -> Iterator[Twin]:
        """Meanwhile it is in the place of the kernels."""
        methods = {name: getattr(self, name) for name in ("largest", "sum_grams", "factor", "recount")}
        with mock.patch.object(backend, "kernels_serve", return_value=True), mock.patch.multiple(Launches, **methods):
            yield self

    def largest(self) -> None:
        """Nothing is scaled."""

    def sum_grams(self, _workspace: Tensor, trace: Tensor, _scale: Tensor | None) -> None:
        trace.copy_(self.gram.trace())

    def factor(self, problems: Problems, _scale: Tensor | None = None) -> None:
        (places,) = (problems.coefficients[..., 0] * problems.trace[:, None] + problems.coefficients[..., 1]).tolist()
        for i in (1, 0):  # the lower bound first: where it is r the other count is not made
            if places[i] == places[i]:
                full = i == 0 and problems.counts[0, 1] == len(self.gram)
                shifted = self.gram - places[i] * torch.eye(len(self.gram), dtype=torch.float64)
                count, growth = (problems.counts[:, 1], 0.0) if full else unpivoted_inertia(shifted[None])
                problems.counts[:, i], problems.growth[:, i, 0] = count, growth

    def recount(self, problems: Problems, limits: Tensor) -> None:
        if len(self.gram) <= ABOVE:
            return
        order = torch.full_like(problems.trace, float(len(self.gram)))
        moments = Moments(problems.trace, order, order.bool(), order, order)
        places = problems.coefficients[..., 0] * problems.trace[:, None] + problems.coefficients[..., 1]
        moved, wider = again(moments, places, limits, problems.counts, problems.growth.sum(-1), 1)
        self.again = bool(moved.isfinite().any())
        problems.counts[moved.isfinite()] = 0
        problems.coefficients.copy_(torch.stack([torch.zeros_like(moved), moved], -1))
        limits.copy_(wider)
        self.factor(problems)


def tally(r: int, count: int, device: torch.device, seed: int = 0) -> Tally:
    """Counts matrices of order r: by the kernels where they serve the device, else by their twin."""
    t = Tally()
    by_kernels = backend.kernels_serve(device)
    for w, sigma, tolerance in made(r, count, device, seed):
        with nullcontext() if by_kernels else Twin(w).serving() as twin:
            lower, upper, status = (int(x) for x in linalg.rank_bounds(w[None], tolerance, resolve=False))
        tau = tolerance.value * float(sigma.norm())
        least, most = (int((sigma > tau * x).sum()) for x in (1 + CLOSE, 1 - CLOSE))
        t.matrices += 1
        t.wrong += lower > most or upper < least
        t.fallback += status == Status.FALLBACK
        t.open += status == Status.OK and lower < upper
        t.again += twin is not None and twin.again
    return t


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--matrices", type=int, default=100, help="of each order (default 100)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        backend.kernels_serve = lambda device: True  # type: ignore[assignment]
    by = "the kernels" if backend.kernels_serve(arguments.device) else "their twin"
    print(f"counted by {by} on {arguments.device}")
    print(f"{'r':>6} {'matrices':>9} {'wrong':>6} {'open':>6} {'fallback':>9} {'again':>6}  seconds")
    wrong = 0
    for r in arguments.orders:
        start = time.monotonic()
        t = tally(r, arguments.matrices, arguments.device, arguments.seed)
        matrices, wrong_here, *shares = astuple(t)
        open_, fallback, twice = (f"{n / max(matrices, 1):.1%}" for n in shares)
        took = time.monotonic() - start
        print(f"{r:6} {matrices:9} {wrong_here:6} {open_:>6} {fallback:>9} {twice:>6}  {took:.0f}", flush=True)
        wrong += wrong_here
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
