"""Sketching: measures matrices of low rank of which no process has all, and moves no more than thin products for it.

At each step every rank multiplies its parts with its rows of a basis of k columns. The owner of a matrix adds up the
products, proves from the sum what the sketch of `fastrank.reference.sketch` proves, and makes the next basis, of which
every rank gets the rows that it needs. Side by side with the other steps of the measurement, on all ranks:

    multiply   W V, or W^T U at every other step, and ||W||_F^2: each part's share of them
    add up     the shares, on the owner                                                       (`thin`)
    prove      bounds of the ranks and of sigma_1, if they are good enough a row
    turn       the next basis is what the product spans; a few columns are noise

Only the owner makes a basis, and all ranks multiply with copies of its bits, FP32 numbers that travel as they are. If
each rank made the basis by itself, from the same sums even, machines that differ in their instructions would differ in
the last bit of it here and there, and W V would not be the product of any V: the error is 2^-24 then, and no allowance
of FP64's rounding covers that.

Why `allowance` covers the rounding of these sums, which are made in another order than those of a sketch of the whole
matrix. Products of two FP32 numbers, and sums with zeros, are exact.

    W V        each element is a sum of n products. In whatever order they are added, in BLAS, over the spans of a part
               and over the ranks, the error is at most (n - 1) u |W| |V| (Rump and Jeannerod, 2014), as `allowance` has
               it for any matrix product.
    ||W||^2    squares are added along the lines of a span, then line by line, then span by span and part by part. No
               square is in more than (n - 1) + (r - 1) + parts + spans additions, which bounds the relative error in
               units of u, in whatever order the numbers of a line are added. `choice` sees to it that there are no more
               parts than the long side has rows, and a part has few spans: these are n + r + max(r, n) units or so,
               less than an eighth of the allowance of k (4 n + r + 16 k + 128) units, as k is 16 or more. Of its
               `slack`, which is 4 allowances, a proof needs one for all else that is rounded.
    subnormal  numbers of a part are read as integers where they could matter, see `share_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from ..device import one_thread
from ..measuring import row_of
from ..metrics import RankBounds, Status, Tolerance
from ..reference import Moments, widened
from ..reference.noise import normal
from ..reference.sketch import Basis, Sketched, next_basis, prove, start
from ..reference.sketch_top import top_bounds
from ..weights import Source
from .holdings import Spans
from .plan import Plan
from .ranks import Ranks
from .thin import Share, ThinMoves, rounds_of_sketches
from .traffic import Sketch, reach
from .travelling import Found, views_of

TIGHT = 1 + 1e-6
"""Largest ratio of the bounds of sigma_1^2 with which it is taken as known; as in `fastrank.kernels.cpu.work`."""
SEED = 0x5EED
"""Of the noise. A matrix draws other numbers for each of its sketches, by its index and their number."""
AT_ONCE = 1 << 22
"""Elements of a part that are widened to FP64 at a time."""
KEPT = 8
"""So many sets of sketches are remembered with what travels for them. Of a set that does not change there are two."""


class Sketching:
    """Sketches matrices, from step to step.

    Args:
        plan: that all ranks have made. ranks: the processes.
        tolerances, spectrum: what a row has columns for.
        device: a CPU, where the numbers are.
    """

    def __init__(
        self,
        plan: Plan,
        ranks: Ranks,
        tolerances: Sequence[Tolerance],
        spectrum: Sequence[str],
        device: torch.device,
    ) -> None:
        self._plan, self._ranks, self._device = plan, ranks, device
        self._tolerances, self._spectrum = tolerances, spectrum
        self._rows: dict[int, Tensor] = {}
        self._bases: dict[int, Basis] = {}
        self._moves: dict[tuple[tuple[int, int, int], ...], list[tuple[list[Sketch], ThinMoves]]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the bases: of this rank's rows of each, and of the whole ones of its own matrices."""
        bases = (x for basis in self._bases.values() for x in basis)
        return sum(x.nbytes for x in (*self._rows.values(), *bases))

    def measure(self, sketches: Sequence[Sketch], sources: Mapping[int, Source]) -> Found:
        """Make the sketches of a step, the same on all ranks, and measure by them the matrices that this rank owns.

        A matrix that is in none of them loses its basis.

        Args:
            sources: what this rank has, by index of the matrix.

        Returns:
            The rows of those matrices; all of a row is NaN where a sketch has left something open. A fresh sketch
            has no row.
        """
        found, kept = Found(), {sketch.matrix for sketch in sketches}
        self._rows = {i: x for i, x in self._rows.items() if i in kept}
        self._bases = {i: x for i, x in self._bases.items() if i in kept}
        for own, moves in self._moves_of(sketches):
            shares = {}
            for sketch in own:
                if piece := moves.pieces.get(sketch.matrix):
                    views = views_of(sources[sketch.matrix], self._device)
                    shares[sketch.matrix] = share_of(views, piece, sketch.side, self._rows_of(sketch, piece))
            sums = moves.to_owners(shares)
            turned: dict[int, Tensor] = {}
            mine = sorted((sketch for sketch in own if sketch.matrix in sums), key=self._kind)
            for _, alike in groupby(mine, self._kind):
                turned |= self._conclude(list(alike), sums, found)
            self._rows |= moves.from_owners(turned)
        return found

    def begin_anew(self) -> None:
        """Forget all bases."""
        self._rows, self._bases = {}, {}

    def _moves_of(self, sketches: Sequence[Sketch]) -> list[tuple[list[Sketch], ThinMoves]]:
        """The rounds of these sketches, and what travels in each."""
        key = tuple((i, columns, side) for i, columns, side, *_ in sketches)
        rounds = self._moves.pop(key, None)
        if rounds is None:
            parted = rounds_of_sketches(self._plan, sketches, self._ranks.size)
            rounds = [(own, ThinMoves(self._plan, self._ranks, own, self._device)) for own in parted]
            if len(self._moves) == KEPT:
                del self._moves[next(iter(self._moves))]
        self._moves[key] = rounds
        now = {sketch.matrix: sketch for sketch in sketches}
        return [([now[sketch.matrix] for sketch in own], moves) for own, moves in rounds]

    def _rows_of(self, sketch: Sketch, piece: Spans) -> Tensor:
        """The rows `(rows, k)` FP32 of the basis that this rank multiplies its part with."""
        if sketch.fresh:
            start, end = reach(piece, 1 - sketch.side)
            return self._noise(sketch)[start:end]
        return self._rows[sketch.matrix]

    def _noise(self, sketch: Sketch) -> Tensor:
        """Columns of the first basis. Ranks need not agree about their last bits, as nothing is proven by them."""
        size = self._plan.matrices[sketch.matrix].shape[1 - sketch.side]
        return start(normal(SEED, size, sketch.columns, sketch.matrix, 2 * sketch.number)[None]).columns[0]

    def _kind(self, sketch: Sketch) -> tuple[int, int, int, bool]:
        """Sketches of which this is the same are concluded as one stack."""
        rows, cols = self._plan.matrices[sketch.matrix].shape
        return (cols, rows)[sketch.side], (rows, cols)[sketch.side], sketch.columns, sketch.fresh

    def _conclude(self, alike: Sequence[Sketch], sums: Mapping[int, Share], found: Found) -> dict[int, Tensor]:
        """Prove what these sketches prove, for `found`, and return the columns of the next bases by index."""
        n, r, k, fresh = self._kind(alike[0])
        product = torch.stack([sums[sketch.matrix].product for sketch in alike])
        with one_thread(k):
            norm = torch.stack([sums[sketch.matrix].norm for sketch in alike])
            sketched = Sketched(product, product.mT @ product, norm)
            if fresh:
                top = torch.zeros(len(alike), k, dtype=torch.float64)
            else:
                basis = Basis(*map(torch.stack, zip(*(self._bases[s.matrix] for s in alike), strict=True)))
                top = self._prove(alike, sketched, basis, min(n, r), found)
            turned = next_basis(sketched, top, torch.zeros(len(alike), r, k))
            for sketch, *own in zip(alike, *turned, strict=True):
                self._bases[sketch.matrix] = self._with_noise(sketch, Basis(*own))
        return {sketch.matrix: self._bases[sketch.matrix].columns for sketch in alike}

    def _prove(self, alike: Sequence[Sketch], sketched: Sketched, basis: Basis, order: int, found: Found) -> Tensor:
        """Make the rows of `row_of`, and return the first singular vectors as `Proof` has them."""
        proof = prove(sketched, basis, self._tolerances)
        top, low, high = top_bounds(sketched, basis)
        finite = sketched.norm.isfinite()
        status = torch.where(finite, Status.OK, Status.NONFINITE).to(torch.int8)
        lower, upper = (x.masked_fill(~finite[:, None], -1) for x in (proof.rank_lower, proof.rank_upper))
        bounds = [RankBounds(x, y, status) for x, y in zip(lower.unbind(1), upper.unbind(1), strict=True)]
        trace = sketched.norm.where(finite, 0.0)
        moments = Moments(trace, torch.ones_like(trace), finite, order, max(sketched.product.shape[1], order))
        rows = row_of(moments, bounds, top.sqrt(), self._spectrum, [])
        rows[finite & ~((lower == upper).all(1) & (high <= TIGHT * low))] = torch.nan
        found.rows.update({sketch.matrix: row for sketch, row in zip(alike, rows, strict=True)})
        return proof.top

    def _with_noise(self, sketch: Sketch, basis: Basis) -> Basis:
        """The same basis, in memory of its own, with noise in the columns that are not kept."""
        lost = ~basis.kept
        size, count = len(basis.columns), int(lost.sum())
        noise = normal(SEED, size, count, sketch.matrix, 2 * sketch.number + 1)
        basis.columns[:, lost] = start(noise[None]).columns[0]
        return Basis(basis.columns.clone(), basis.kept.clone(), basis.top.clone())


def share_of(views: Sequence[Tensor], piece: Spans, side: int, rows: Tensor) -> Share:
    """What a part of a matrix adds to a sketch.

    Args:
        views: the spans of the part, each a 2-D tensor of at most 32 bits an element.
        piece: where these are.
        side: of the sketch.
        rows: `(rows, k)` FP32, the rows of the basis that the part reaches on the other side.

    Subnormal numbers, which a CPU may be told to read as zero, are read as integers where they could matter. If the
    mean square of the part is larger than 2^-108, all of them together are 2^-72 of its norm, which every error bound
    allows for.
    """
    share = _multiplied(views, piece, side, rows, torch.Tensor.double)
    if share.norm < 2.0**-108 * sum(span.numel for span in piece):
        share = _multiplied(views, piece, side, rows, widened)
    return share


def _multiplied(
    views: Sequence[Tensor], piece: Spans, side: int, rows: Tensor, widen: Callable[[Tensor], Tensor]
) -> Share:
    (top, bottom), (left, _) = reach(piece, side), reach(piece, 1 - side)
    wide = rows.double()
    product = wide.new_zeros(bottom - top, rows.shape[1])
    norm = wide.new_zeros(())
    for span, view in zip(piece, views, strict=True):
        lines, first, start, end = view, span.top, span.left, span.right
        if side:
            lines, first, start, end = view.mT, span.left, span.top, span.bottom
        for chunk in torch.split(lines, max(1, AT_ONCE // max(1, lines.shape[1]))):
            x = widen(chunk)
            product[first - top : first - top + len(x)].addmm_(x, wide[start - left : end - left])
            norm += x.square().sum(1).sum()
            first += len(x)
    return Share(product, norm)
