"""Grams: which launches make the Grams of a batch, in FP64 or from INT8 slices.

FP64        `gram_`, one launch a dtype
integers    `cut_`, one launch a dtype; `integer_gram_`, one for each number of slices
finish      `finish_`, where a Gram is summed in chunks, is to be whole, or is one of integers
            `error_`, for those of integers
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..device import capability, to_device
from ..inertia.table import Shape, rows_of, slice_size
from ..launch import AnyVariant
from . import cut, finish, gram, integer_gram

Key = TypeVar("Key", bound=Hashable)
SLICED = 2**23
"""Most columns of a matrix that is cut into slices: its sums of integers have room, see `count.cut`."""


def cuttable(dtype: torch.dtype, shape: Shape) -> bool:
    """Whether a matrix can be cut into slices: squares of FP64 numbers need more of them than pay."""
    return dtype != torch.float64 and shape.columns <= SLICED


def chunk_of(shape: Shape, by_integers: bool, at: tuple[int, int]) -> int:
    """Columns that one program sums for a matrix."""
    chunk = gram.chunk_of(shape, integer_gram.config(at).block if by_integers else gram.config(at).block)
    return integer_gram.chunk_of(chunk) if by_integers else chunk


def variants_of_grams(
    dtypes: Collection[torch.dtype], integers: bool, device: torch.device
) -> tuple[list[AnyVariant], list[AnyVariant]]:
    """Every variant that makes whole Grams of matrices of these dtypes on `device`: what reads them, and the rest."""
    at = capability(device)
    cut_up = [dtype for dtype in dtypes if integers and dtype != torch.float64]
    others = [dtype for dtype in dtypes if dtype not in cut_up]
    made: list[AnyVariant] = [gram.gram_variant(dtype, dtype == torch.float64, gram.config(at)) for dtype in others]
    made += [cut.cut_variant(dtype) for dtype in cut_up]
    made += [
        integer_gram.integer_gram_variant(slices, integer_gram.config(at))
        for slices in sorted({cut.slices_of(dtype) for dtype in cut_up})
    ]
    rest: list[AnyVariant] = [finish.finish_variant(True, False, gram.config(at))] if others else []
    rest += [finish.finish_variant(True, True, gram.config(at)), cut.ERROR] if cut_up else []
    return made, rest


class Grams:
    """The Grams of some matrices of a batch.

    Args:
        pointers, shapes, dtypes: of all b matrices.
        stored: indices of those whose Grams are made.
        keep: store every Gram whole. integers: make those from slices that can be.
        decided: `(b,)` int32 on the device; where it is not 0, nothing is written for a matrix.

    Attributes:
        table: `(b, FIELDS)` int64 on the CPU. size, partial: FP64 elements of the Grams and of the partial sums.
        slices: bytes of the slices, which are needed only until the Grams are made.
        error: `(b,)` FP64 on the device, of the last Grams: more than slices have changed in the spectral norm and in
            the trace; 0 for those in FP64.
        squares: sums of squares by tiles, see `finish_`; None unless `keep`.
    """

    def __init__(
        self, pointers: Sequence[int], shapes: Sequence[Shape], dtypes: Sequence[torch.dtype], stored: Sequence[int],
        keep: bool, integers: bool, decided: Tensor,
    ) -> None:  # fmt: skip
        device, at = decided.device, capability(decided.device)
        block = gram.config(at).block
        by_slices = [i for i in stored if integers and cuttable(dtypes[i], shapes[i])]
        slices = {i: cut.slices_of(dtypes[i]) for i in by_slices}
        chunks = [chunk_of(shape, i in slices, at) for i, shape in enumerate(shapes)]
        self.table, self.size, self.partial = rows_of(pointers, shapes, chunks, stored, slices)
        self.slices = sum(count * slice_size(shapes[i]) for i, count in slices.items())
        self._decided = decided
        self.on_device = to_device(self.table, device)

        def sent(tiles: Tensor) -> Tensor:
            return to_device(tiles, device)

        by_dtype = sorted_out([i for i in stored if i not in slices], lambda i: dtypes[i])
        self._tiles = {d: sent(gram.tiles_of(shapes, ids, chunks, block)) for d, ids in by_dtype.items()}
        self._strips = {
            d: sent(cut.strips_of(shapes, ids)) for d, ids in sorted_out(by_slices, lambda i: dtypes[i]).items()
        }
        self._integer_tiles = {
            count: sent(gram.tiles_of(shapes, ids, chunks, integer_gram.config(at).block))
            for count, ids in sorted_out(by_slices, lambda i: slices[i]).items()
        }
        whole = [shape.columns for shape in shapes]
        chunked = [i for i in stored if i not in slices and (keep or shapes[i].columns > chunks[i])]
        self._finish = sent(gram.tiles_of(shapes, chunked, whole, block))
        self._integer_finish = sent(gram.tiles_of(shapes, by_slices, whole, block))
        self._by_slices = sent(torch.tensor(by_slices, dtype=torch.int32))

        def numbers(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        rows = sum(shapes[i].order for i in by_slices)
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
        for count, tiles in self._integer_tiles.items():
            given = (grams.view(torch.int64), partial.view(torch.int64), self.on_device, tiles, self._decided)
            integer_gram.integer_gram_(*given, slices, count)

    def finish(self, grams: Tensor, partial: Tensor) -> None:
        """Makes whole Grams of what `make` has written."""
        if len(self._finish):
            finish.finish_(grams, partial, self.on_device, self._finish, self._decided, self.squares)
        if len(self._integer_finish):
            given = (grams, partial, self.on_device, self._integer_finish, self._decided, self.squares)
            finish.finish_(*given, self._tops)
            cut.error_(self.error, self.on_device, self._by_slices, self._decided, grams, self._lost)


def sorted_out(ids: Sequence[int], key: Callable[[int], Key]) -> dict[Key, list[int]]:
    """The `ids`, by their keys."""
    found: dict[Key, list[int]] = {}
    for i in ids:
        found.setdefault(key(i), []).append(i)
    return found
