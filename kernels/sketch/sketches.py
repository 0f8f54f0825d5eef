"""Sketches: bases of matrices of one dtype and one k that are carried from step to step, and the launches of a step.

    multiply   `sketch_`          Y = W V, unless the optimizer's own pass over the weights (`step.sgd_sketch`) made it
    conclude   `product_grams_`   C = Y^T Y
               `compare_`         C - s B for the thresholds s
               `ldl.factor_`      counts of their positive pivots, and the factor of C
               `conclude_`        bounds of ranks and of sigma_1, and which columns to keep
               `rotate_`          the next basis, orth(Y)
               `basis_grams_`     its Gram, next step's B

The size of every launch is known beforehand, and none waits for the host: a CUDA graph can capture them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..count import Shape, ldl, rows_of
from ..device import capability, current, to_device
from ..variant import Variant
from . import compare, conclude, rotate, sketch, sketch_gram
from .compare import compare_
from .conclude import conclude_
from .lift import lift_variant
from .proof import FIRST, NUMBERS
from .rotate import rotate_
from .sketch import config, sketch_
from .sketch_gram import basis_grams_, product_grams_
from .table import View, is_complete, tables


def variants_of_sketches(dtype: torch.dtype, k: int, device: torch.device) -> list[Variant]:
    """Every variant that sketches of matrices of one dtype and k launch on `device`."""
    at = capability(device)
    return [
        sketch.sketch_variant(dtype, k, config(k, at)),
        *(sketch_gram.sketch_gram_variant(products, k, sketch_gram.config(k, at)) for products in (True, False)),
        compare.compare_variant(k),
        ldl.variant_of(ldl.factor_kernel, ldl.config(at), IN_PLACE=False),
        conclude.conclude_variant(k),
        rotate.rotate_variant(k, rotate.config(k, at)),
        lift_variant(k),
    ]


class Sketches:
    """What is carried of b matrices, and what the launches of a step write, all of it on the device.

    Args:
        views: where each matrix stands in its parameter's memory; see `sketch.table.View`.
        dtype, k: of the matrices, one of `limits.NARROW`, and number of columns, one of `limits.KS`.
        tolerances: `(t, 2)` FP64, kind (see `sketch.proof`) and square of the value of each tolerance.
        step: 0-d int64 on the device, the number of steps since the start; its parity is the side whose turn it is. All
            groups share it, and their owner counts it up.
        skip: 1 element, FP32, on the device; where it is not 0 a step changes nothing that is carried. Shared as well.
        seed: key of the noise.

    Attributes:
        proof: `(b, 3 + 2 t)` FP64, what the last step has proven; see `conclude_`.
        decided: `(b,)` int32, 1 where there is nothing left to count; see `conclude_`.
        tensors: every tensor that the kernels take, by the name of its argument without `p_`.
    """

    def __init__(
        self,
        views: Sequence[View],
        dtype: torch.dtype,
        k: int,
        tolerances: Tensor,
        step: Tensor,
        skip: Tensor,
        seed: int,
    ) -> None:
        device = step.device
        made = tables(views, k, config(k, capability(device)).block)
        self.views, self.dtype, self.k, self.seed = list(views), dtype, k, seed
        self._places = made.places
        self._complete = [i for i, view in enumerate(views) if is_complete(view, k)]
        self.problems = FIRST.value + 2 * len(tolerances)
        b = len(views)
        count = b * self.problems
        places, size, _ = rows_of([0] * count, [Shape(k, k, k, 1)] * count, [k] * count, range(count))

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        small = zeros(size)
        self.tensors = {
            "table": to_device(made.rows, device),
            "tiles": to_device(made.tiles, device),
            "strips": to_device(made.strips, device),
            "step": step,
            "skip": skip,
            "tolerances": to_device(tolerances, device),
            "bases": zeros(made.bases, dtype=torch.float32),  # of both sides of all matrices
            "kept": zeros(b, k, dtype=torch.int32),  # 1 where a column of the basis is orthonormal, 0 where it is noise
            "top": zeros(b, k),  # where among those columns the first singular vector was last; 0: not known
            "basis_grams": zeros(made.grams, k, k),  # V^T V of each strip of the bases
            "partial": zeros(made.partial),  # W V over each chunk of columns
            "product": zeros(made.product),  # Y = W V, then Q
            "norms": zeros(made.norms),  # shares of ||W||_F^2
            "grams": zeros(made.grams, k, k),  # Y^T Y of each strip of the products
            "inner": zeros(b, k, k),  # B
            "small": small,  # the problems, then their factors
            "x": zeros(2 * b, k),  # the first singular vector in this step's basis; the second half is scratch
            "trace": zeros(count),  # ||W||_F^2, as every problem's factorisation needs it
            "growth": zeros(count, 1, 1),  # of the factors of the problems
            "counts": zeros(count, 1, dtype=torch.int64),  # of the problems' positive pivots
            "numbers": zeros(b, NUMBERS.value),
            "proof": zeros(b, 3 + 2 * len(tolerances)),
            "decided": zeros(b, dtype=torch.int32),
        }
        t = self.tensors
        coefficients = zeros(count, 1, 2)  # shifts of 0: the threshold of a problem is in its matrix already
        problems = (
            to_device(places, device),
            zeros(count, dtype=torch.int32),
            coefficients,
            t["trace"],
            small,
            small,
            t["counts"],
            t["growth"],
        )
        self._problems = ldl.Problems(*problems)
        self._ids = torch.arange(count, dtype=torch.int32, device=device)
        self.restart()

    @property
    def proof(self) -> Tensor:
        return self.tensors["proof"]

    @property
    def decided(self) -> Tensor:
        return self.tensors["decided"]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def restart(self) -> None:
        """Forgets all bases: the one whose turn it is becomes noise, and complete ones the identity."""
        for name in ("kept", "top", "small", "product"):
            self.tensors[name].zero_()
        with current(self._ids.device):
            rotate_(self._before(), len(self.views), self.problems, self.k, self.seed)
            for place in self._complete:
                right, left, kept, _ = self.basis(place)
                whole = left if len(left) <= len(right) else right
                whole.copy_(torch.eye(*whole.shape, device=whole.device))
                kept[: len(whole)] = 1
            basis_grams_(self._before(), len(self.views), self.k)

    def basis(self, place: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is carried of the matrix (m, n) at `place`, as views of the state.

        Bases (n, k) and (m, k) FP32, of which only the one that is multiplied next is up to date; `kept` (k,) int32:
        which of its columns are orthonormal, others are noise; `top` (k,) FP64: where among them the first singular
        vector was last.
        """
        view, bases = self.views[place], self.tensors["bases"]
        sides = zip((view.columns, view.rows), self._places[place], strict=True)
        right, left = (bases[at : at + n * self.k].view(n, self.k) for n, at in sides)
        return right, left, self.tensors["kept"][place], self.tensors["top"][place]

    def adopt(self, bases: Mapping[int, Sequence[Tensor]]) -> None:
        """Copies what the `basis` of other sketches has returned, by place here, as far as there are columns for it."""
        for place, given in bases.items():
            pairs = list(zip(self.basis(place), given, strict=True))
            # A complete basis stays the identity: all that it can take over is where in it the vector was.
            for own, theirs in pairs[-1:] if place in self._complete else pairs:
                k = min(self.k, theirs.shape[-1])
                own[..., :k] = theirs[..., :k]
        if bases:
            with current(self._ids.device):
                basis_grams_(self._before(), len(self.views), self.k)

    def _before(self) -> dict[str, Tensor]:
        """The tensors as in the step before: what launches make from them is the basis whose turn it is now."""
        return self.tensors | {"step": self.tensors["step"] - 1, "skip": torch.zeros_like(self.tensors["skip"])}

    def multiply(self, pointers: Tensor) -> None:
        """Multiplies all matrices with the bases whose turn it is. pointers: `(b,)` int64, the matrices' addresses."""
        with current(self._ids.device):
            sketch_(self.tensors, pointers, len(self.views), self.k, self.dtype)

    def conclude(self) -> None:
        """From the products of this step: writes `proof`, `decided` and the bases of the next step."""
        b, tolerances = len(self.views), (self.problems - FIRST.value) // 2
        with current(self._ids.device):
            product_grams_(self.tensors, b, self.k)
            compare_(self.tensors, b, tolerances, self.k)
            ldl.factor_(self._problems, self._ids)
            conclude_(self.tensors, b, tolerances, self.k)
            rotate_(self.tensors, b, self.problems, self.k, self.seed)
            basis_grams_(self.tensors, b, self.k)
