"""Grams: which launches make the Grams of a batch, in FP64 or from INT8 slices.

FP64        `gram_`, one launch a dtype
integers    `cut_`, one launch a dtype; `integer_gram_`
finish      `finish_`, where a Gram is summed in chunks, is to be whole, or is one of integers
            `error_`, for those of integers
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..device import capability, to_device
from ..inertia.table import Shape, rows_of, slices_size
from ..launch import AnyVariant
from . import cut, finish, gram, integer_gram

Key = TypeVar("Key", bound=Hashable)


def cuttable(dtype: torch.dtype, shape: Shape, products: int) -> bool:
    """Whether so many products of slices make the Gram of a matrix. An FP64 matrix would need far more of them."""
    return products > 0 and dtype != torch.float64 and shape.columns <= integer_gram.MOST[products]


def chunk_of(shape: Shape, sliced: bool, at: tuple[int, int]) -> int:
    """Columns that one program sums for a matrix; `sliced`: whether its Gram is made from slices."""
    chunk = gram.chunk_of(shape, integer_gram.config(at).block if sliced else gram.config(at).block)
    return integer_gram.chunk_of(chunk) if sliced else chunk


def variants_of_grams(
    matrices: Collection[tuple[torch.dtype, Shape]], products: int, device: torch.device
) -> list[AnyVariant]:
    """Every variant that makes whole Grams of these matrices on `device`."""
    at = capability(device)
    sliced = dict.fromkeys(dtype for dtype, shape in matrices if cuttable(dtype, shape, products))
    others = dict.fromkeys(dtype for dtype, shape in matrices if not cuttable(dtype, shape, products))
    made: list[AnyVariant] = [gram.gram_variant(dtype, dtype == torch.float64, gram.config(at)) for dtype in others]
    if others:
        made += [finish.finish_variant(True, 0, gram.config(at))]
    if sliced:
        made += [cut.cut_variant(dtype) for dtype in sliced]
        made += [integer_gram.integer_gram_variant(products, integer_gram.config(at)), cut.error_variant(products)]
        made += [finish.finish_variant(True, products, gram.config(at))]
    return made


class Grams:
    """The Grams of some matrices of a batch.

    Args:
        pointers, shapes, dtypes: of all b matrices.
        stored: indices of those whose Grams are made.
        keep: store every Gram whole.
        products: how many products of slices, 10 or 13, make the Gram of each matrix that is `cuttable`; 0: none is.
        decided: `(b,)` int32 on the device; where it is not 0, nothing is written for a matrix.

    Attributes:
        table: `(b, FIELDS)` int64 on the CPU. size, partial: FP64 elements of the Grams and of the partial sums.
        slices: bytes of the slices, which are needed only until the Grams are made.
        error: `(b,)` FP64 on the device: bounds of what slices have changed in the last Grams, in the spectral norm and
            in the trace; 0 for Grams made in FP64.
        squares: sums of squares by tiles, see `finish_`; None unless `keep`.
    """

    def __init__(
        self, pointers: Sequence[int], shapes: Sequence[Shape], dtypes: Sequence[torch.dtype], stored: Sequence[int],
        keep: bool, products: int, decided: Tensor,
    ) -> None:  # fmt: skip
        device, at = decided.device, capability(decided.device)
        block = gram.config(at).block
        sliced = [i for i in stored if cuttable(dtypes[i], shapes[i], products)]
        cut_up = set(sliced)
        others = [i for i in stored if i not in cut_up]
        chunks = [chunk_of(shape, i in cut_up, at) for i, shape in enumerate(shapes)]
        self.table, self.size, self.partial = rows_of(pointers, shapes, chunks, stored, sliced)
        self.slices = sum(slices_size(shapes[i]) for i in sliced)
        self._decided = decided
        self.on_device = to_device(self.table, device)

        def sent(tiles: Tensor) -> Tensor:
            return to_device(tiles, device)

        by_dtype = sorted_out(others, lambda i: dtypes[i])
        self._tiles = {d: sent(gram.tiles_of(shapes, ids, chunks, block)) for d, ids in by_dtype.items()}
        by_dtype = sorted_out(sliced, lambda i: dtypes[i])
        self._strips = {d: sent(cut.strips_of(shapes, ids)) for d, ids in by_dtype.items()}
        self._integer_tiles = sent(gram.tiles_of(shapes, sliced, chunks, integer_gram.config(at).block))
        whole = [shape.columns for shape in shapes]
        chunked = [i for i in others if keep or shapes[i].columns > chunks[i]]
        self._finish = sent(gram.tiles_of(shapes, chunked, whole, block))
        self._integer_finish = sent(gram.tiles_of(shapes, sliced, whole, block))
        self._sliced, self._products = sent(torch.tensor(sliced, dtype=torch.int32)), products

        def numbers(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        rows = sum(shapes[i].order for i in sliced)
        self._tops, self._lost = numbers(rows, torch.int32), numbers(rows // cut.STRIP.value * cut.LOST.value)
        self.error = numbers(len(shapes))
        self.squares = numbers(self.size // finish.SMALLEST.value) if keep else None

    def make(self, grams: Tensor, partial: Tensor, space: Tensor, scale: Tensor | None) -> None:
        """Reads the matrices and writes the sums of products, chunk by chunk.

        Args:
            grams, partial: FP64, of `size` and of `partial` elements. space: FP64, for the slices: overwritten.
            scale: as of `gram_`.
        """
        for dtype, tiles in self._tiles.items():
            divisor = scale if dtype == torch.float64 else None
            gram.gram_(grams, partial, self.on_device, tiles, self._decided, divisor, dtype)
        slices = space.view(torch.int8)
        for dtype, strips in self._strips.items():
            cut.cut_(slices, self._tops, self._lost, self.on_device, strips, self._decided, dtype)
        if len(self._integer_tiles):
            given = (grams.view(torch.int64), partial.view(torch.int64), self.on_device, self._integer_tiles)
            integer_gram.integer_gram_(*given, self._decided, slices, self._products)

    def finish(self, grams: Tensor, partial: Tensor) -> None:
        """Makes whole Grams of what `make` has written."""
        if len(self._finish):
            finish.finish_(grams, partial, self.on_device, self._finish, self._decided, self.squares)
        if len(self._integer_finish):
            given = (grams, partial, self.on_device, self._integer_finish, self._decided, self.squares)
            finish.finish_(*given, self._tops, self._products)
            of = (self.on_device, self._sliced, self._decided, grams, self._lost)
            cut.error_(self.error, *of, self._products)


def sorted_out(ids: Sequence[int], key: Callable[[int], Key]) -> dict[Key, list[int]]:
    """The `ids`, by their keys."""
    found: dict[Key, list[int]] = {}
    for i in ids:
        found.setdefault(key(i), []).append(i)
    return found
