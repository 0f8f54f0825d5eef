"""Range finder: k orthonormal columns that span nearly the range of every matrix of a ragged batch, by random products.

    Omega (n, k) = noise                                     A (m, n), its dtype FP32 or narrower
    Q = orth(A Omega);  power_iters times: P = orth(A^T Q), Q = orth(A P)
    Z = A^T Q,  C = Z^T Z                                    FP64; Q (m, k), P (n, k) FP32

This is algorithm 4.4 of Halko, Martinsson & Tropp (2011). A product is one pass over A (`sketch_`). orth is Cholesky-QR
of the product, in two or three passes over it, each with an FP64 Gram of columns that are scaled to unit length
(`unit_gram_`, `Factors`, `keep_`, `rotate_`). A column of which all but 2^-18 of the length is in the span of the
columns before it is dead: noise takes its place, and the next pass makes the noise orthonormal to the others. So a
basis has k orthonormal columns where the matrix has that many rows, whatever the rank of A. Two passes do; the bases
that are answers get a third, because one of many noise columns may itself come out dead, with a chance of about 1e-6
where no column is spare.

The size of every launch is known beforehand, and none waits for the host. For bytes and flops see the kernels. Times
are not measured.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..device import current
from ..inertia import Problems
from ..sketch import order_of, product_grams_, rotate_, sketch_
from ..sketch.table import WIDEST
from .range_table import Layout, Run
from .unit_gram import keep_, unit_gram_

PASSES = 2
"""Passes of orth between two products."""
LAST_PASSES = 3
"""Passes of orth for the bases that are answers."""


class RangeFinder:
    """One search, over b matrices. It starts with a basis of noise; `multiply` and `orthonormalise` take turns.

    A counter of steps, 1 at first, keys the noise. Its parity is the side whose turn it is, 0 for products A P and 1
    for A^T Q; the basis made from the product of one side is multiplied on the other.

    Attributes:
        size: `(b, k)` FP64, the norms of the columns that `gram` is the Gram of; not finite where the matrix is not.
        kept: `(b, k)` int32, 1 for the columns of the last basis that are orthonormal; others are noise.
    """

    def __init__(self, layout: Layout, pointers: Tensor, seed: int) -> None:
        """pointers: `(b,)` int64 on the device, the address of each matrix. seed: key of the noise."""
        self.layout, self._pointers, self._seed, self._step = layout, pointers, seed, 1
        b, k = layout.count, layout.k

        def empty(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=layout.device)

        self.size = empty(b, k)
        self.kept = torch.zeros(b, WIDEST.value, dtype=torch.int32, device=layout.device)[:, :k]
        self._products = [empty(size) for size in layout.sizes]
        self._bases = empty(sum(layout.sizes), dtype=torch.float32)
        small = torch.zeros(layout.small, dtype=torch.float64, device=layout.device)
        self._small = small.view(b, order_of(k), order_of(k))
        self._tensors = {
            "strips": layout.strips,
            "blocks": layout.blocks,
            "step": empty(dtype=torch.int64),
            "skip": torch.zeros(1, device=layout.device),
            "bases": self._bases,
            "partial": empty(layout.partial),
            "norms": empty(layout.norms),
            "grams": empty(layout.grams),
            "small": small,
            "size": self.size,
            "kept": self.kept,
        }
        zeros = torch.zeros(b, 1, 2, dtype=torch.float64, device=layout.device)
        # Of a Gram with ones on its diagonal the trace is k, or less where columns are zero.
        trace = torch.full((b,), float(k), dtype=torch.float64, device=layout.device)
        counts, growth = empty(b, 1, dtype=torch.int64), torch.zeros_like(zeros[:, :, :1])
        nothing = torch.zeros(b, dtype=torch.int32, device=layout.device)
        given = (layout.problems, nothing, zeros, trace, small, small, counts, growth)
        self._problems = Problems(*given, progress=layout.factors.progress(1))
        with current(layout.device):
            self._turn(0)
            self._products[self._side].zero_()
            self._rotate()  # no column is kept: the basis is all noise

    @property
    def _side(self) -> int:
        return self._step & 1

    @property
    def pivots(self) -> Tensor:
        """`(b, k)` FP64: squared length of the part of each column that is not in the span of those before it.

        The columns are those that the last pass of orth was given.
        """
        return self._small.diagonal(dim1=-2, dim2=-1)[:, : self.layout.k]

    def find(self, power_iters: int) -> None:
        """Leaves Q in `basis`, and in FP64 in `product`, there with columns of length sqrt(`pivots`)."""
        for i in range(1 + 2 * power_iters):
            self.multiply()
            self.orthonormalise(PASSES if i < 2 * power_iters else LAST_PASSES)

    def multiply(self) -> None:
        """Multiplies each matrix, or its transpose, with the last basis: writes `product`, `gram` and `size`."""
        layout = self.layout
        with current(layout.device):
            self._turn(1)
            sketch_(self._scratch(), layout.every, self._pointers)
            self._unit_gram(self._scratch())

    def take_product(self) -> None:
        """Writes `gram` and `size` of a `product` that the caller has changed in place."""
        with current(self.layout.device):
            self._sum()

    def orthonormalise(self, passes: int) -> Tensor:
        """Writes the next basis, from the product and its Gram, both of which are overwritten.

        Returns the `pivots` `(b, k)` FP64 of the first pass, 0 where a column was dead.
        """
        pivots = self.size
        with current(self.layout.device):
            for i in range(passes):
                if i:
                    start = self._side * self.layout.sizes[0]
                    product = self._products[self._side]
                    product.copy_(self._bases[start : start + len(product)])
                    self._turn(2)
                    self._sum()
                self.layout.factors.launch(self._problems)
                keep_(self._scratch(), self.layout.count, self.layout.k)
                self._rotate()
                pivots = pivots if i else torch.where(self.kept != 0, self.pivots, 0.0)
        return pivots

    def gram(self) -> Tensor:
        """`(b, k, k)` FP64, Gram of the product's columns scaled to unit length; zero for those 0 or not finite."""
        return self._small[:, : self.layout.k, : self.layout.k]

    def product(self, run: Run) -> Tensor:
        """The last product, or what orth has made of it, for the matrices of a run: a view `(length, r, k)` FP64."""
        return self._view(self._products[self._side], 0, run, self._side)

    def basis(self, run: Run) -> Tensor:
        """The last basis, for the matrices of a run: a view `(length, r, k)` FP32."""
        return self._view(self._bases, self._side * self.layout.sizes[0], run, self._side)

    def _view(self, tensor: Tensor, start: int, run: Run, side: int) -> Tensor:
        """`(length, r, k)` of a run in `tensor`, in which that side begins at `start`."""
        k = self.layout.k
        start += k * sum(before.length * before.shape[side] for before in self.layout.runs if before.place < run.place)
        size = run.length * run.shape[side] * k
        return tensor[start : start + size].view(run.length, run.shape[side], k)

    def _turn(self, steps: int) -> None:
        self._step += steps
        self._tensors["step"].fill_(self._step)

    def _scratch(self) -> dict[str, Tensor]:
        """What the kernels take, by the name of the argument without `p_`."""
        return {**self._tensors, "table": self.layout.tables, "product": self._products[self._side]}

    def _sum(self) -> None:
        """Writes `gram` and `size` of a product whose chunks are summed already: it is read as its only chunk."""
        own = {**self._scratch(), "table": self.layout.whole, "partial": self._products[self._side]}
        self._unit_gram(own)

    def _unit_gram(self, scratch: dict[str, Tensor]) -> None:
        product_grams_(scratch)
        unit_gram_(scratch, self.layout.count, self.layout.k)

    def _rotate(self) -> None:
        rotate_(self._scratch(), self._seed)
