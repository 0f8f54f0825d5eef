"""Counts: the arithmetic of whatever makes Grams and counts ranks on a device, on matrices with known answers.

Each `Way` is one of them: the kernels of the device, where they serve, and what PyTorch does elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..metrics import Tolerance
from .exact import Integers, exponents, integers, known, share_of_bound
from .finding import REPORTED, Finding
from .rounding import judge_fused, remainders
from .ways import Way

SHAPES = [(1, 1), (1, 40), (7, 9), (8, 255), (64, 64), (65, 70), (100, 37), (33, 1100), (257, 300)]
"""Of matrices whose Grams are made: around the tiles of the kernels, tall, with sums in several pieces."""
NEAR = (12, 40, 51)
"""Thresholds are by 2^-12, 2^-40 and 2^-51 of a singular value above and below it."""
KINDS = ((torch.float32, 1), (torch.bfloat16, 1), (torch.float64, 2**40 + 15))
"""Dtypes of counted matrices, and by what their integers are multiplied: so that in FP64 the Gram is rounded, too."""

FAINT = ((torch.float32, np.int32, -149), (torch.bfloat16, np.int16, -133))
"""Dtypes with subnormal numbers, integers of their size, and the exponent of the smallest of these numbers."""


def findings(way: Way, device: torch.device, orders: Sequence[int]) -> list[Finding]:
    """Grams, fused products, counts and subnormal numbers of one way.

    orders: powers of 4, of the matrices whose ranks are counted; the Grams are of at most about their order.
    """
    shapes = [shape for shape in SHAPES if min(shape) <= 2 * max(orders)]
    of_grams = [_whole(way, device, shapes), _rounded(way, device, shapes), _fused(way, device)]
    return [*of_grams, _counts(way, device, orders), _subnormal(way, device)]


def on_device(w: Integers, device: torch.device, dtype: torch.dtype, d: Integers | int = 0) -> Tensor:
    """The matrix 2^d w, whose rows are scaled by powers of two. All of its numbers are numbers of the `dtype`."""
    return torch.from_numpy(np.ldexp(w.astype(np.float64), np.asarray(d).reshape(-1, 1))).to(device, dtype)


def _whole(way: Way, device: torch.device, shapes: Sequence[tuple[int, int]]) -> Finding:
    name = "a Gram is exact to the bit where its sums are"
    for dtype, bits in ((torch.float32, 12), (torch.float64, 20), (torch.bfloat16, 8)):
        given = [integers(shape, bits, i) for i, shape in enumerate(shapes)]
        for w, g in zip(given, way.grams([on_device(w, device, dtype) for w in given]), strict=True):
            wide = w if w.shape[0] <= w.shape[1] else w.T
            if not np.array_equal(_symmetric(g), (wide @ wide.T).astype(np.float64)):
                return Finding(name, False, f"{way.name}: that of integers {w.shape}, {dtype}, is wrong", REPORTED)
    return Finding(name, True, f"{way.name}: those of {3 * len(shapes)} matrices of integers are")


def _rounded(way: Way, device: torch.device, shapes: Sequence[tuple[int, int]]) -> Finding:
    """Rows differ by powers of two up to 1e24: what is wrong relative to the largest row shows in the others."""
    name, worst = "a Gram keeps its bound n 2^-53 |W| |W|^T, element by element", 0.0
    for dtype, bits in ((torch.float32, 24), (torch.float64, 26)):
        given = [(integers(s, bits, i), exponents(s[0], 40, i) * (s[0] <= s[1])) for i, s in enumerate(shapes)]
        for (w, d), g in zip(given, way.grams([on_device(w, device, dtype, d) for w, d in given]), strict=True):
            wide = w if w.shape[0] <= w.shape[1] else w.T
            found = np.ldexp(_symmetric(g), -(d[:, None] + d)) if len(wide) == len(d) else _symmetric(g)
            worst = max(worst, share_of_bound(found, wide, wide.T, wide.shape[1]))
    seen = f"{way.name}: the largest error is {worst:.2g} of that"
    return Finding(name, worst <= 1, seen, "" if worst <= 1 else REPORTED)


def _symmetric(gram: Tensor) -> Integers:
    lower = gram.cpu().numpy()
    return np.asarray(np.tril(lower) + np.tril(lower, -1).T)


def _fused(way: Way, device: torch.device) -> Finding:
    """a b + c is an element of the Gram of [[1, a], [c, b]]."""
    matrices = [torch.tensor([[1.0, a], [c, b]], dtype=torch.float64, device=device) for a, b, c, _ in remainders(15)]
    return judge_fused([float(g[1, 0]) for g in way.grams(matrices)], way.name)


def _counts(way: Way, device: torch.device, orders: Sequence[int]) -> Finding:
    """Ranks of matrices whose singular values are known integers: no bound may be false, however near tau is to one.

    Where tau is in the middle between two of them at least half of the ranks have to be certified: bounds of 0 and r
    are never false. (Growing factors may leave some open.)
    """
    name, number, between, certified = "counts by LDL^T never exclude the true rank", 0, 0, 0
    for order in orders:
        for dtype, factor in KINDS if order <= 64 else KINDS[-1:]:
            w, sigma = known(order, 4 if order > 1 else 1, order)
            levels = [int(x) * factor for x in sorted({0, *sigma.tolist()})]
            middle = [(a + b) / 2 for a, b in pairwise(levels)][:: max(1, len(levels) // 3)]
            chosen = {levels[len(levels) // 2], levels[-1]}
            taus = middle + [x * (1 + sign * 2.0**-near) for x in sorted(chosen) for near in NEAR for sign in (1, -1)]
            found = way.bounds(on_device(w * factor, device, dtype), [Tolerance(tau, "absolute") for tau in taus])
            for i, bounds in enumerate(found):
                tau = taus[i % len(taus)]
                rank, (lower, upper) = sum(int(s) * factor > tau for s in sigma), (int(x) for x in bounds[:2])
                if not lower <= rank <= upper:
                    seen = f"{way.name}: the rank of a matrix {w.shape}, {dtype}, for tau = {tau.hex()} is {rank}"
                    return Finding(name, False, f"{seen}, and the bounds are {lower} and {upper}", REPORTED)
                number += 1
                if i % len(taus) < len(middle):
                    between, certified = between + 1, certified + (lower == upper)
    seen = f"{way.name}: none of {number} does; {certified} of {between} ranks are certified where no tau is near"
    return Finding(name, 2 * certified >= between, seen, "" if 2 * certified >= between else REPORTED)


def _subnormal(way: Way, device: torch.device) -> Finding:
    """Matrices of subnormal numbers, given by their bits, with and without flushing on a CPU."""
    name = "subnormal numbers of FP32 and BF16 count at their values, whether or not the CPU flushes them"
    w, sigma = known(16, 1, 3)
    wrong, middle = [], float(sigma[8] + sigma[7]) / 2
    rank = int((sigma > middle).sum())
    for dtype, kind, unit in FAINT:
        bits = np.abs(w).astype(kind) | np.where(w < 0, np.iinfo(kind).min, 0).astype(kind)
        matrix = torch.from_numpy(bits).view(dtype).to(device)
        for flushed in (False, True) if way.on_cpu else (False,):
            with _flushing(flushed):
                gram = way.grams([matrix])[0]
                found = way.bounds(matrix, [Tolerance(np.ldexp(middle, unit), "absolute")])
            exact = np.array_equal(np.ldexp(_symmetric(gram), -2 * unit), w @ w.T)
            if not exact or any((int(b.lower), int(b.upper)) != (rank, rank) for b in found):
                wrong.append(f"{dtype}{', flushed' if flushed else ''}")
    seen = f"they do not: {'; '.join(wrong)}" if wrong else "Grams are exact, and ranks certified"
    return Finding(name, not wrong, f"{way.name}: {seen}", REPORTED if wrong else "")


_SMALLEST = 2.0**-1074


@contextmanager
def _flushing(wanted: bool) -> Iterator[None]:
    """The calling thread reads subnormal numbers as zero meanwhile, or does not."""
    before = _SMALLEST + 0.0 == 0.0
    torch.set_flush_denormal(wanted)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
