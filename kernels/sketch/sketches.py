"""Sketches: bases of all matrices of a device that are carried from step to step, and the launches of a step.

    multiply   `sketch_`          Y = W V, unless the optimizer's own pass over the weights (`step.sgd_sketch`) made it
    conclude   `product_grams_`   C = Y^T Y
               `compare_`         C - s B for the thresholds s
               `count.Factors`    counts of their positive pivots, and the factor of C
               `conclude_`        bounds of ranks and of sigma_1, and which columns to keep
    rotate     `rotate_`          the next basis, orth(Y)
               `basis_grams_`     its Gram, next step's B
    lift       `lift_`            the first singular vectors, where somebody wants them

There is one launch of a kind for all matrices, but for the products: one for each dtype and k. The size of every launch
is known beforehand, what it takes stays where it is, and none waits for the host: a CUDA graph or a `launch.Tape` can
have them all. What is proven is complete before `rotate`, which may run beside whatever needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ..device import capability, current, to_device
from ..inertia import Factors, Problems, Shape, rows_of, variants_of_factors
from ..launch import AnyVariant
from . import compare, sketch, sketch_gram
from .compare import compare_
from .conclude import CONCLUDE, conclude_
from .lift import LIFT, lift_
from .proof import CUT, FIRST, NUMBERS, order_of
from .rotate import ROTATE, rotate_
from .sketch import config, sketch_
from .sketch_gram import basis_grams_, product_grams_
from .table import SMALL, WIDEST, Pass, View, is_complete, tables


def variants_of_sketches(
    pairs: Iterable[tuple[torch.dtype, int]], device: torch.device, integers: bool = False
) -> list[AnyVariant]:
    """Every variant that sketches of matrices of these dtypes and numbers of columns k launch on `device`.

    integers: as of `Sketches`.
    """
    at = capability(device)
    return [
        *(sketch.sketch_variant(dtype, k, config(k, at, integers), integers) for dtype, k in pairs),
        sketch_gram.sketch_gram_variant(True, sketch_gram.config(at)),
        sketch_gram.sketch_gram_variant(False, sketch_gram.config(at), integers),
        compare.compare_variant(compare.config(at)),
        *variants_of_factors([k for _, k in pairs], device),
        CONCLUDE,
        ROTATE,
        LIFT,
    ]


class Sketches:
    """What is carried of b matrices, and what the launches of a step write, all of it on the device.

    Args:
        views: where each matrix stands in its parameter's memory; see `sketch.table.View`.
        dtypes, ks: of each matrix, one of `limits.NARROW`, and its number of columns, one of `limits.KS`.
        apart: which matrices must not be multiplied by the launch that multiplies the others of their dtype and k.
        tolerances: `(t, 2)` FP64, kind (see `sketch.proof`) and square of the value of each tolerance.
        step: 0-d int64 on the device, the number of steps since the start; its parity is the side whose turn it is. Its
            owner counts it up, after `rotate` and `lift`.
        skip: 1 element, FP32, on the device; where it is not 0 a step changes nothing that is carried.
        seed: key of the noise.
        integers: whether products are made from INT8 slices (default False: in FP64), see `sketch.sketch`.

    Attributes:
        passes: the launches that multiply matrices; each matrix belongs to one of them.
        proof: `(b, 3 + 2 t)` FP64, what the last step has proven; see `conclude_`.
        decided: `(b,)` int32, 1 where there is nothing left to count; see `conclude_`.
        tensors: every tensor that the kernels take, by the name of its argument without `p_`, but for the `tiles` of
            the passes.
    """

    def __init__(
        self,
        views: Sequence[View],
        dtypes: Sequence[torch.dtype],
        ks: Sequence[int],
        apart: Sequence[bool],
        tolerances: Tensor,
        step: Tensor,
        skip: Tensor,
        seed: int,
        integers: bool = False,
    ) -> None:
        device, b = step.device, len(views)
        self._device = device
        self.views, self.dtypes, self.ks, self.seed = list(views), list(dtypes), list(ks), seed
        self.integers = integers
        groups: dict[tuple[torch.dtype, int, bool], list[int]] = {}
        for i, key in enumerate(zip(dtypes, ks, map(bool, apart), strict=True)):
            groups.setdefault(key, []).append(i)
        blocks = [config(k, capability(device), integers).block for k in ks]
        made = tables(views, ks, blocks, list(groups.values()))
        self.passes = [
            Pass(dtype, k, indices, to_device(tiles, device))
            for ((dtype, k, _), indices), tiles in zip(groups.items(), made.tiles, strict=True)
        ]
        self._places = made.places
        self._complete = [i for i, (view, k) in enumerate(zip(views, ks, strict=True)) if is_complete(view, k)]
        problems = FIRST.value + 2 * len(tolerances)
        count = b * problems
        shapes = [Shape(k, k, k, 1) for k in ks for _ in range(problems)]
        places, size, _ = rows_of([0] * count, shapes, [shape.columns for shape in shapes], range(count))
        starts = accumulate((problems * order_of(k) ** 2 for k in ks), initial=0)
        made.rows[:, :, SMALL.value] = torch.tensor(list(starts)[:-1])

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        small = zeros(size)
        self.tensors = {
            "table": to_device(made.rows, device),
            "strips": to_device(made.strips, device),
            "blocks": to_device(made.blocks, device),
            "step": step,
            "skip": skip,
            "tolerances": to_device(tolerances, device),
            "bases": zeros(made.bases, dtype=torch.float32),  # of both sides of all matrices
            "kept": zeros(b, WIDEST.value, dtype=torch.int32),  # 1: a column of the basis is orthonormal, 0: noise
            "top": zeros(b, WIDEST.value),  # where among them the first singular vector was last; 0: not known
            "basis_grams": zeros(made.grams),  # V^T V of each strip of the bases
            "partial": zeros(made.partial),  # W V over each chunk of columns
            "product": zeros(made.product),  # Y = W V, then Q
            "norms": zeros(made.norms),  # shares of ||W||_F^2
            "grams": zeros(made.grams),  # Y^T Y of each strip of the products
            "small": small,  # the problems, then their factors
            "x": zeros(b, WIDEST.value),  # the first singular vector in this step's basis
            "trace": zeros(count),  # ||W||_F^2, as every problem's factorisation needs it
            "growth": zeros(count, 1, 1),  # of the factors of the problems
            "counts": zeros(count, 1, dtype=torch.int64),  # of the problems' positive pivots
            "numbers": zeros(b, NUMBERS.value),
            "proof": zeros(b, 3 + 2 * len(tolerances)),
            "decided": zeros(b, dtype=torch.int32),
        }
        t = self.tensors
        coefficients = zeros(count, 1, 2)  # shifts of 0: the threshold of a problem is in its matrix already
        nothing = zeros(count, dtype=torch.int32)
        self._factors = Factors([shape.rows for shape in shapes], range(count), device, 1, inverses=True)
        given = (to_device(places, device), nothing, coefficients, t["trace"], small, small, t["counts"], t["growth"])
        self._problems = Problems(*given, progress=self._factors.progress(1))
        self.restart()

    @property
    def proof(self) -> Tensor:
        return self.tensors["proof"]

    @property
    def decided(self) -> Tensor:
        return self.tensors["decided"]

    @property
    def nbytes(self) -> int:
        """Bytes of all that is carried, and of what the launches write."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def restart(self) -> None:
        """Forgets all bases: the one whose turn it is becomes noise, and complete ones the identity."""
        for name in ("kept", "top", "small", "product"):
            self.tensors[name].zero_()
        with current(self._device):
            rotate_(self._before(), self.seed)
            for i in self._complete:
                right, left, kept, _ = self.basis(i)
                whole = left if len(left) <= len(right) else right
                whole.copy_(torch.eye(*whole.shape, device=whole.device))
                kept[: len(whole)] = 1
            basis_grams_(self._before(), self.integers)

    def basis(self, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is carried of matrix i (m, n), as views of the state.

        Bases (n, k) and (m, k) FP32, of which only the one that is multiplied next is up to date; `kept` (k,) int32:
        which of its columns are orthonormal, others are noise; `top` (k,) FP64: where among them the first singular
        vector was last.
        """
        view, k, bases = self.views[i], self.ks[i], self.tensors["bases"]
        sides = zip((view.columns, view.rows), self._places[i], strict=True)
        right, left = (bases[at : at + n * k].view(n, k) for n, at in sides)
        return right, left, self.tensors["kept"][i, :k], self.tensors["top"][i, :k]

    def adopt(self, bases: Mapping[int, Sequence[Tensor]]) -> None:
        """Copies what the `basis` of other sketches has returned, by index here, as far as there are columns for it."""
        for i, given in bases.items():
            pairs = list(zip(self.basis(i), given, strict=True))
            # A complete basis stays the identity: all that it can take over is where in it the vector was.
            for own, theirs in pairs[-1:] if i in self._complete else pairs:
                k = min(self.ks[i], theirs.shape[-1])
                own[..., :k] = theirs[..., :k]
        if bases:
            with current(self._device):
                basis_grams_(self._before(), self.integers)

    def _before(self) -> dict[str, Tensor]:
        """The tensors as in the step before: what launches make from them is the basis whose turn it is now."""
        return self.tensors | {"step": self.tensors["step"] - 1, "skip": torch.zeros_like(self.tensors["skip"])}

    def multiply(self, made: Pass, pointers: Tensor) -> None:
        """Multiplies the matrices of a pass with the bases whose turn it is.

        pointers: `(b,)` int64, the addresses of all matrices, of which those of the pass are read.
        """
        with current(self._device):
            sketch_(self.tensors, made, pointers, self.integers)

    def conclude(self) -> None:
        """From the products of this step: writes `proof` and `decided`."""
        with current(self._device):
            product_grams_(self.tensors)
            compare_(self.tensors, CUT if self.integers else 0.0)
            self._factors.launch(self._problems)
            conclude_(self.tensors)

    def rotate(self) -> None:
        """Writes the bases of the next step, after `conclude`."""
        with current(self._device):
            rotate_(self.tensors, self.seed)
            basis_grams_(self.tensors, self.integers)

    def lift(self, vectors: Tensor) -> None:
        """Writes each matrix' first singular vector into its row of `vectors` `(b, length)`, after `rotate`; see
        `lift_`."""
        with current(self._device):
            lift_(vectors, self.tensors)
