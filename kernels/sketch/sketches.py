"""Sketches: the bases of matrices of one dtype and one k, from step to step, and the launches of a step.

    multiply   `sketch_`, unless the optimizer's own pass over the weights has done it
    conclude   `product_grams_`, `compare_`, `ldl.factor_`, `conclude_`, `rotate_`, `basis_grams_`

Every launch is of a size that is known beforehand and waits for nothing: a CUDA graph can capture all of them.
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
    """What all launches of sketches of one dtype and k specialise their kernels on."""
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
    """State of a group of matrices, all of it on the device.

    Args:
        views: where each matrix stands; see `sketch_table.View`.
        dtype, k: of `limits.NARROW` and `limits.KS`.
        tolerances: `(t, 2)` FP64, kind (see `proof`) and square of the value of each.
        step: 0-d int64, the number of steps since the start, shared by all groups and advanced by their owner.
        skip: 1-element FP32, not 0 where a step is not to change anything that is carried; likewise shared.
        seed: key of the noise.

    Attributes:
        proof: `(b, 3 + 2 t)` FP64, see `proof.conclude_`; of the last step. decided: `(b,)` int32.
        tensors: all there is, by name.
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
            "bases": zeros(made.bases, dtype=torch.float32),
            "kept": zeros(b, k, dtype=torch.int32),
            "top": zeros(b, k),
            "basis_grams": zeros(made.grams, k, k),
            "partial": zeros(made.partial),
            "product": zeros(made.product),
            "norms": zeros(made.norms),
            "grams": zeros(made.grams, k, k),
            "inner": zeros(b, k, k),
            "small": small,
            "x": zeros(2 * b, k),
            "trace": zeros(count),
            "growth": zeros(count, 1, 1),
            "counts": zeros(count, 1, dtype=torch.int64),
            "numbers": zeros(b, NUMBERS.value),
            "proof": zeros(b, 3 + 2 * len(tolerances)),
            "decided": zeros(b, dtype=torch.int32),
        }
        t = self.tensors
        coefficients = zeros(count, 1, 2)  # shifts of 0: each problem has its own in it
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
        """Forgets all bases: what follows is noise, of the side whose turn it is."""
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
        """Of one matrix (m, n), views: bases (n, k) and (m, k), one of them stale; which columns are kept; the top."""
        view, bases = self.views[place], self.tensors["bases"]
        sides = zip((view.columns, view.rows), self._places[place], strict=True)
        right, left = (bases[at : at + n * self.k].view(n, self.k) for n, at in sides)
        return right, left, self.tensors["kept"][place], self.tensors["top"][place]

    def adopt(self, bases: Mapping[int, Sequence[Tensor]]) -> None:
        """Takes what `basis` has of other sketches, by place, as far as there are columns for it."""
        for place, given in bases.items():
            pairs = list(zip(self.basis(place), given, strict=True))
            # A complete basis stays as it is: all there is to know is where in it the top was.
            for own, theirs in pairs[-1:] if place in self._complete else pairs:
                k = min(self.k, theirs.shape[-1])
                own[..., :k] = theirs[..., :k]
        if bases:
            with current(self._ids.device):
                basis_grams_(self._before(), len(self.views), self.k)

    def _before(self) -> dict[str, Tensor]:
        """Last step's arguments: what it would leave behind is of the side whose turn it is."""
        return self.tensors | {"step": self.tensors["step"] - 1, "skip": torch.zeros_like(self.tensors["skip"])}

    def multiply(self, pointers: Tensor) -> None:
        """The products of all matrices with the bases whose turn it is."""
        with current(self._ids.device):
            sketch_(self.tensors, pointers, len(self.views), self.k, self.dtype)

    def conclude(self) -> None:
        """From products to `proof`, `decided` and the bases of the next step."""
        b, tolerances = len(self.views), (self.problems - FIRST.value) // 2
        with current(self._ids.device):
            product_grams_(self.tensors, b, self.k)
            compare_(self.tensors, b, tolerances, self.k)
            ldl.factor_(self._problems, self._ids)
            conclude_(self.tensors, b, tolerances, self.k)
            rotate_(self.tensors, b, self.problems, self.k, self.seed)
            basis_grams_(self.tensors, b, self.k)
