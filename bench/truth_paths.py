"""The ways in which `make truth` has ranks bounded, and what it makes of the bounds of a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from truth_made import Made, distances

import fastrank
from fastrank import RankBounds, Tolerance, backend, linalg, testing
from fastrank.reference import gram, unpivoted_inertia
from fastrank.reference.noise import normal
from fastrank.reference.sketch import next_basis, prove, sketch, start
from fastrank.reference.slices import integer_gram

COLUMNS = 16
"""Of the sketches."""
TRACKED = 4
"""One batch in so many is given to a tracker as well."""
SMALL = 256
"""Elements of a matrix that may be kept as a worst case."""
INTEGERS = "integers"
"""In the names of all ways by products of slices."""
Two = tuple[RankBounds, RankBounds]
"""The bounds of the count alone, and those after what it left open is resolved."""


class Tally(NamedTuple):
    """Of one path: matrices, those whose rank is not known exactly, false bounds, and bounds left open by the count and
    at last."""

    matrices: int = 0
    ambiguous: int = 0
    wrong: int = 0
    open: int = 0
    last: int = 0


class Kept(NamedTuple):
    """A matrix of a batch, and why it is kept: "nearest", "growth" or "widest", and the more so the larger `score`."""

    why: str
    score: float
    index: int


class False_(NamedTuple):
    """A matrix with a false bound: which path, the bounds, and the true rank."""

    path: str
    index: int
    lower: int
    upper: int
    truth: tuple[int, int]


@dataclass
class Outcome:
    """What came out for a batch."""

    number: int
    tallies: dict[str, Tally] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    false: list[False_] = field(default_factory=list)


def judge(made: Made, device: torch.device) -> Outcome:
    """Have a batch bounded in every way that there is on a device, and compare the bounds with the truth."""
    outcome = Outcome(made.specification.number)
    ambiguous = int(made.truth.ambiguous.sum())
    s = made.specification
    for name, path in paths(device, s.dtype, made.tolerance, s.number % TRACKED == 0).items():
        count, last = path(made.matrices, made.tolerance)
        wrong = _false(count, made.truth) | _false(last, made.truth)
        left = (int((bounds.lower < bounds.upper).sum()) for bounds in (count, last))
        outcome.tallies[name] = Tally(len(made.matrices), ambiguous, int(wrong.sum()), *left)
        for i in wrong.nonzero().flatten().tolist():
            bad = last if _false(last, made.truth)[i] else count
            bounds = int(bad.lower[i]), int(bad.upper[i])
            outcome.false.append(False_(name, i, *bounds, (int(made.truth.lower[i]), int(made.truth.upper[i]))))
        if len(outcome.tallies) == 1 and made.matrices[0].numel() <= SMALL:
            outcome.kept = _kept(made, count, last)
    return outcome


def _false(bounds: RankBounds, truth: testing.TrueRank) -> Tensor:
    return (bounds.lower.cpu() > truth.upper) | (bounds.upper.cpu() < truth.lower)


def paths(
    device: torch.device, dtype: torch.dtype, tolerance: Tolerance, tracked: bool = True
) -> dict[str, Callable[[Tensor, Tolerance], Two]]:
    """All ways to have a stack `(b, m, n)` of a dtype bounded. The first is what the library chooses on the device, or
    kernels that multiply in FP64."""
    narrow = dtype != torch.float64
    found: dict[str, Callable[[Tensor, Tolerance], Two]] = {}
    if backend.kernels_serve(device):
        found["kernels"] = lambda m, t: _by_kernels("fp64", m.to(device), t)
        if narrow and tolerance.relative_to != "spectral":
            found[f"kernels, {sliced(tolerance)}"] = lambda m, t: _by_kernels("integers", m.to(device), t)
        return found
    if device.type != "cpu":
        return {"torch": lambda m, t: _ranks(m.to(device), t)}
    if backend.compiled_serve(device):
        found["compiled"] = _ranks
    found["torch"] = _by_torch
    if narrow:
        found[sliced(tolerance)] = _by_integers
        found["sketch"] = _sketched
    if tracked:
        found["tracker"] = _tracked
        found["tracker, torch"] = _tracked_by_torch
    return found


def sliced(tolerance: Tolerance) -> str:
    """What to call a way by integers: how many products they make, and whether only the environment chooses them."""
    served = backend.products_for([tolerance])
    return f"{INTEGERS}, {served}" if served else f"{INTEGERS}, {backend.FINE}, forced"


def beside(path: str) -> tuple[str, str]:
    """The way in FP64 that a way by integers is compared with, and what to call it where it took the same batches."""
    return "kernels" if path.startswith("kernels") else "torch", f"{path}: FP64"


def _ranks(matrices: Tensor, tolerance: Tolerance) -> Two:
    return _resolved(linalg.rank_bounds(matrices, tolerance, resolve=False), matrices, tolerance)


def _resolved(count: RankBounds, matrices: Tensor, tolerance: Tolerance) -> Two:
    left = (count.lower < count.upper).nonzero().flatten()
    if not len(left):
        return count, count
    resolved = linalg.rank_bounds(matrices[left], tolerance)
    lower, upper = (x.index_copy(0, left, y) for x, y in zip(count[:2], resolved[:2], strict=True))
    return count, RankBounds(lower, upper, count.status)


@contextmanager
def by_torch() -> Iterator[None]:
    """PyTorch counts, as it does where Numba is missing."""
    before = backend.compiled_serve
    backend.compiled_serve = lambda device: False
    try:
        yield
    finally:
        backend.compiled_serve = before


def _by_torch(matrices: Tensor, tolerance: Tolerance) -> Two:
    with by_torch():
        return _ranks(matrices, tolerance)


def _by_integers(matrices: Tensor, tolerance: Tolerance) -> Two:
    """As PyTorch counts, from Grams of slices; what they leave open is counted in FP64, and resolved."""
    with by_torch():
        before = linalg.functions.gram
        products = backend.products_for([tolerance]) or backend.FINE
        linalg.functions.gram = partial(integer_gram, products=products)
        try:
            count = linalg.rank_bounds(matrices, tolerance, resolve=False)
        finally:
            linalg.functions.gram = before
        return _resolved(count, matrices, tolerance)


def _by_kernels(products: str, matrices: Tensor, tolerance: Tolerance) -> Two:
    """Of Grams that are made of these products, where the library chooses as it is told."""
    before = os.environ.get(backend.PRODUCTS, "")
    os.environ[backend.PRODUCTS] = products
    try:
        return _ranks(matrices, tolerance)
    finally:
        os.environ[backend.PRODUCTS] = before


def _sketched(matrices: Tensor, tolerance: Tolerance) -> Two:
    """Of matrices that stay the same: the third sketch."""
    b = len(matrices)
    basis = start(normal(0, matrices.shape[-1], COLUMNS, 0, -1).expand(b, -1, -1))
    for step in range(2):
        view = matrices.mT if step % 2 else matrices
        found = sketch(view, basis)
        proof = prove(found, basis, [tolerance])
        basis = next_basis(found, proof.top, normal(0, view.shape[1], COLUMNS, 0, step).expand(b, -1, -1))
    proof = prove(sketch(matrices, basis), basis, [tolerance])
    bounds = RankBounds(proof.rank_lower[:, 0], proof.rank_upper[:, 0], torch.zeros(b, dtype=torch.int8))
    return bounds, bounds


def _tracked(matrices: Tensor, tolerance: Tolerance) -> Two:
    """A step of a tracker on a CPU, and one after it that starts where the first has ended."""
    model = nn.ParameterDict({str(i): nn.Parameter(matrix) for i, matrix in enumerate(matrices)})
    tracker = fastrank.RankTracker(model, tolerance=tolerance)
    found = []
    for _ in range(2):
        tracker.step()
        rows = tracker.latest()
        each = [rows[str(i)] for i in range(len(matrices))]
        ranks = torch.tensor([[row["rank_lower"], row["rank_upper"]] for row in each])
        found.append(RankBounds(*ranks.unbind(1), torch.zeros(len(ranks), dtype=torch.int8)))
    return found[0], found[1]


def _tracked_by_torch(matrices: Tensor, tolerance: Tolerance) -> Two:
    with by_torch():
        return _tracked(matrices, tolerance)


def _kept(made: Made, count: RankBounds, last: RankBounds) -> list[Kept]:
    """The nearest call that was certified, the largest growth of factors at tau^2, the widest bracket of a count."""
    matrices, tolerance = made.matrices, made.tolerance
    near = torch.where((last.lower == last.upper).cpu(), -distances(matrices, tolerance), -torch.inf)
    g = gram(matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices)
    tau = {
        "frobenius": lambda: tolerance.value * g.trace.sqrt(),
        "spectral": lambda: tolerance.value * torch.linalg.eigvalsh(g.matrix)[:, -1].clamp(min=0).sqrt(),
        "absolute": lambda: tolerance.value / g.scale,
    }[tolerance.relative_to]()
    shifted = g.matrix - torch.diag_embed(tau.square()[:, None].expand(g.matrix.shape[:-1]))
    size = g.trace + g.matrix.shape[-1] * tau.square()
    growth = torch.where(size > 0, unpivoted_inertia(shifted)[1] / size, 0.0).nan_to_num(0.0, 0.0)
    widths = (count.upper - count.lower).cpu().double()
    scores = {"nearest": near, "growth": growth, "widest": widths}
    best = ((why, float(score.max()), int(score.argmax())) for why, score in scores.items())
    return [Kept(*one) for one in best if one[1] > (0 if one[0] == "widest" else -1e300)]
