"""Layers: as which matrices a layer sees its weight, each `(rows, cols)`.

    linear, embedding, ...       `(rows, cols)`
    convolution                  `(c_out/g, c_in/g * kernel)`, one matrix a group
    transposed convolution       the same, though its weight is stored as `(c_in, c_out/g, kernel)`
    multi-head attention         `in_proj_weight` is q, k and v
    LSTM, GRU                    input and recurrent weights are one matrix a gate
    anything else                leading axes are a stack of matrices: experts `(E, F, m, n)` are E * F of them

`Split` cuts the weights of other layers into theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, product
from math import prod
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .boxes import Box


class Split(NamedTuple):
    """How a weight is cut into pieces that are matrices, or stacks of them, by themselves."""

    labels: tuple[str, ...]
    """Names of the pieces; empty: they are numbered, as many as there are `sizes`."""
    sizes: tuple[int, ...]
    """Their lengths along the axis; all 0: equal ones."""
    axis: int

    def ranges(self, shape: Sequence[int]) -> dict[str, tuple[int, int]]:
        """First index and end of the pieces along the axis, by label; a single piece has the label "".

        Raises:
            ValueError: a weight of this shape cannot be cut so.
        """
        shape = tuple(shape)
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"shape {shape} has no axis {self.axis}")
        length, sizes = shape[self.axis], self.sizes
        if not any(sizes) and length % len(sizes) == 0:
            sizes = (length // len(sizes),) * len(sizes)
        if sum(sizes) != length:
            wanted = f"parts of {', '.join(map(str, sizes))}" if any(sizes) else f"{len(sizes)} equal parts"
            raise ValueError(f"shape {shape} cannot be cut into {wanted} along axis {self.axis}")
        numbers = tuple(map(str, range(len(sizes)))) if len(sizes) > 1 else ("",)
        ends = tuple(accumulate(sizes))
        return dict(zip(self.labels or numbers, zip((0, *ends[:-1]), ends, strict=True), strict=True))


QKV = Split(("q", "k", "v"), (0,) * 3, 0)
GATES = {
    nn.LSTM: Split(("i", "f", "g", "o"), (0,) * 4, 0),
    nn.LSTMCell: Split(("i", "f", "g", "o"), (0,) * 4, 0),
    nn.GRU: Split(("r", "z", "n"), (0,) * 3, 0),
    nn.GRUCell: Split(("r", "z", "n"), (0,) * 3, 0),
}
"""Recurrent layers whose weights stack their gates, in PyTorch's order."""


def check_split(split: Mapping[str, Any]) -> dict[str, Split]:
    """The argument `split` of `RankTracker`, checked: what each glob is cut into.

    Raises:
        TypeError, ValueError: not a mapping of globs to (parts, axis), or parts that are none.
    """
    if not isinstance(split, Mapping):
        raise TypeError(f"split: expected a dict of globs and (parts, axis), not {split!r}")
    return {glob: _checked(glob, value) for glob, value in split.items()}


def _checked(glob: str, value: Any) -> Split:
    wrong = TypeError(
        f"split: expected (parts, axis) for {glob!r}, such as (3, 0), (('q', 'k', 'v'), 0) or ((64, 16, 16), 0), "
        f"not {value!r}"
    )
    if not isinstance(glob, str) or not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise wrong
    parts, axis = value
    if not _is_integer(axis) or not (_is_integer(parts) or isinstance(parts, Sequence)):
        raise wrong
    pieces: list[Any] = list(parts) if isinstance(parts, Sequence) else [0] * parts
    if not pieces:
        raise ValueError(f"split: {glob!r} is cut into no parts: {value!r}")
    if all(isinstance(piece, str) for piece in pieces):
        if len(set(pieces)) < len(pieces) or not all(pieces):
            raise ValueError(f"split: {glob!r} has a name twice, or an empty one, in {value!r}")
        return Split(tuple(pieces), (0,) * len(pieces), axis)
    if not all(_is_integer(piece) for piece in pieces):
        raise wrong
    if isinstance(parts, Sequence) and min(pieces) < 1:
        raise ValueError(f"split: a part of {glob!r} has no length in {value!r}")
    return Split((), tuple(pieces), axis)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def matrices_of(weight: Tensor, layer: nn.Module, attribute: str, split: Split | None = None) -> dict[str, Tensor]:
    """The matrices of a weight with at least two dimensions: 2-D, sharing its memory where strides allow.

    The columns of a convolution's matrix are in the order of memory, which in channels-last format differs from the
    order of its dimensions: the singular values are the same, and nothing is copied.

    Args:
        weight: detached.
        layer, attribute, split: as of `boxes_of`.

    Returns:
        The matrices by label; a weight that is a single matrix has the label "".

    Raises:
        ValueError: `weight` cannot be cut as `split` says.
    """
    return {label: box.cut_from(weight) for label, box in boxes_of(weight.shape, layer, attribute, split).items()}


def boxes_of(shape: Sequence[int], layer: nn.Module, attribute: str, split: Split | None = None) -> dict[str, Box]:
    """Where the matrices of a weight with at least two dimensions are in it, by label.

    Args:
        shape: of the weight.
        layer: the one that uses it.
        attribute: its name there.
        split: takes the place of what the layer's type says about several matrices.

    Raises:
        ValueError: a weight of this shape cannot be cut as `split` says.
    """
    shape = tuple(shape)
    split = split if split is not None else _split_of(layer, attribute, shape)
    axis = split.axis % len(shape) if split is not None and -len(shape) <= split.axis < len(shape) else 0
    pieces = split.ranges(shape) if split is not None else {"": (0, shape[0])}
    found = {}
    for label, (start, stop) in pieces.items():
        starts, stops = [0] * len(shape), list(shape)
        starts[axis], stops[axis] = start, stop
        if isinstance(layer, _ConvNd) and len(shape) > 2:
            rows = 1 if isinstance(layer, _ConvTransposeNd) else 0
            columns = tuple(i for i in range(len(shape)) if i != rows)
            found[label] = Box(tuple(starts), tuple(stops), rows, columns)
            continue
        leading = [stop - start for start, stop in zip(starts[:-2], stops[:-2], strict=True)]
        for place in product(*map(range, leading)) if prod(leading) else ():
            first = tuple(start + i for start, i in zip(starts[:-2], place, strict=True))
            name = ",".join([*([label] if label else []), *map(str, place)])
            ends = (*(i + 1 for i in first), *stops[-2:])
            found[name] = Box((*first, *starts[-2:]), ends, len(shape) - 2, (len(shape) - 1,))
    return found


def _split_of(layer: nn.Module, attribute: str, shape: tuple[int, ...]) -> Split | None:
    """How the type of a layer says that its weight is cut; None: it is not."""
    split = None
    if isinstance(layer, nn.MultiheadAttention) and attribute == "in_proj_weight":
        split = QKV
    elif isinstance(layer, tuple(GATES)) and attribute.startswith(("weight_ih", "weight_hh")):
        split = next(gates for kind, gates in GATES.items() if isinstance(layer, kind))
    elif isinstance(layer, _ConvNd) and layer.groups > 1 and len(shape) > 2:
        split = Split((), (0,) * layer.groups, 0)
    return split if split is not None and shape[0] % len(split.sizes) == 0 else None
