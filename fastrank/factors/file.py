"""Files of factors: safetensors, written tensor by tensor, so that no more than one of them is in memory.

In the place of the tensor NAME, `(c_out, ...)`, stand `NAME.U` `(c_out, k)` and `NAME.V` `(k, rest)`, where `rest` is
the product of the other axes; all other tensors are there as they were. The header's `__metadata__` has, under
`METADATA`, a text of JSON:

    {"version": 1, "tolerance": {"value", "relative_to"} or null, "error": number or null,
     "matrices": [{"name", "shape", "dtype", "rows", "cols", "k", "relative_error", "error", "parameters", "stored",
                   "kept"}, ...]}

`kept` says why a matrix stands there as it is, and is empty for one of which there are factors.

The header stands before the tensors, and how long they are is known after them: so room is left for the longest header
that there can be, and blanks fill the rest, which the format allows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..analysis import REPEATED, AnalyzeError, missing, read_file
from ..files import replacing

METADATA, VERSION = "fastrank.factors", 1
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls the dtypes that it has."""
OF_A_TENSOR, OF_A_CANDIDATE = 256, 1280
"""Bytes of the header for one, besides its name: of a tensor dtype, shape and two offsets; of a candidate two tensors
and a row of numbers, of which none has more than 24 digits."""


def refuse_unwritable(name: str, x: Tensor) -> None:
    """Raise AnalyzeError for a tensor that such a file cannot hold as it is."""
    what = "nested" if x.is_nested else "meta" if x.is_meta else ""
    if not what and type(x) is not Tensor:  # sharded, or quantised: what its numbers are is its own business
        what = type(x).__name__
    if not what and (x.layout != torch.strided or x.dtype not in DTYPE_NAMES):
        what = str(x.layout if x.layout != torch.strided else x.dtype).removeprefix("torch.")
    if not what and x.numel() * x.element_size() > max(REPEATED, x.untyped_storage().nbytes()):
        what = "repeated"
    if what:
        raise AnalyzeError(f"{name}: is a {what} tensor, which a file of factors cannot hold")


def room_for(tensors: Mapping[str, Tensor], candidates: Iterable[str]) -> int:
    """Bytes of the longest header of a file of these tensors, of which some may become factors."""
    own = set(candidates)
    each = (
        8 * len(json.dumps(name)) + 32 * x.ndim + (OF_A_CANDIDATE if name in own else OF_A_TENSOR)
        for name, x in tensors.items()
    )
    return (OF_A_CANDIDATE + sum(each)) // 8 * 8


def write(path: Path, tensors: Iterable[tuple[str, Tensor]], room: int, told: Mapping[str, Any]) -> None:
    """Write the tensors in their order, each when it comes, and then, into `room` bytes, the header.

    Tensors of wider dtypes have to come first, so that each begins at a multiple of its element's size. `told`, which
    goes under `METADATA`, is read after the last tensor. Raises OSError; then there is no such file, or still the old
    one.
    """
    entries: dict[str, Any] = {}
    with replacing(path) as file:
        file.seek(8 + room)
        at = 0
        for name, tensor in tensors:
            plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
            content = plain.reshape(-1).view(torch.uint8).numpy()
            file.write(content.data)
            entries[name] = {
                "dtype": DTYPE_NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [at, at + content.nbytes],
            }
            at += content.nbytes
        texts = {"format": "pt", METADATA: json.dumps(told)}
        header = json.dumps({"__metadata__": texts, **entries}).encode()
        assert len(header) <= room, "a header is longer than the longest one"
        file.seek(0)
        file.write(room.to_bytes(8, "little") + header.ljust(room))


class Pair(NamedTuple):
    """The factors of a weight, as a file has them."""

    u: Tensor
    v: Tensor
    shape: tuple[int, ...]
    """Of the weight itself."""

    def multiplied(self) -> Tensor:
        """The weight U V, in its own shape and dtype: computed in FP64, and rounded once more."""
        return (self.u.double() @ self.v.double()).to(self.u.dtype).view(self.shape)


def read(path: Path) -> tuple[dict[str, Pair], dict[str, Tensor]]:
    """The factors in a file, by the names of their weights, and all other tensors.

    Raises AnalyzeError for a file that is damaged, is not one of factors, or does not hold what its header says.
    """
    tensors = read_file(path)
    told = _metadata(path)
    if told is None or not isinstance(tensors, dict):
        raise AnalyzeError(f"{path}: is no file of factors: fastrank factorize writes one")
    try:
        content = json.loads(told)
        version = content["version"]
        shapes = {row["name"]: tuple(row["shape"]) for row in content["matrices"] if not row["kept"]}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise AnalyzeError(f"{path}: what its header says of factors cannot be read: {error!r}") from error
    if version != VERSION:
        raise AnalyzeError(f"{path}: is of version {version}, and version {VERSION} is read here")
    pairs = {}
    for name, shape in shapes.items():
        u, v = tensors.pop(f"{name}.U", None), tensors.pop(f"{name}.V", None)
        if u is None or v is None:
            raise AnalyzeError(f"{path}: has no factors of {name!r}, of which its header tells")
        if not _fits(u, v, shape):
            raise AnalyzeError(
                f"{path}: {name!r} has shape {shape} by the header, and factors {tuple(u.shape)}, {tuple(v.shape)}"
            )
        pairs[name] = Pair(u, v, shape)
    return pairs, tensors


def _fits(u: Tensor, v: Tensor, shape: tuple[Any, ...]) -> bool:
    if not (u.ndim == v.ndim == 2 and u.dtype == v.dtype and u.is_floating_point()):
        return False
    if not (len(shape) > 1 and all(isinstance(length, int) for length in shape)):
        return False
    return u.shape[1] == v.shape[0] > 0 and (u.shape[0], v.shape[1]) == (shape[0], prod(shape[1:]))


def _metadata(path: Path) -> str | None:
    """What a header tells of factors; None if it does not."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise missing(f"{path}: to read it", error) from error
    try:
        with safe_open(path, "pt") as file:
            told: str | None = (file.metadata() or {}).get(METADATA)
            return told
    except SafetensorError:
        return None
