"""Files that somebody has made to do harm. Each is small; all are made here, so that one can read what is in them."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch


def safetensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A file of safetensors with any header, and any length that it says it has."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def saved(value: Any, **options: Any) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def repacked(archive: bytes, pickled: Any) -> bytes:
    """A checkpoint with another pickle, `pickled(the one that is there)`; the checksums are right."""
    old, new = zipfile.ZipFile(io.BytesIO(archive)), io.BytesIO()
    with zipfile.ZipFile(new, "w") as archived:
        for member in old.infolist():
            content = old.read(member)
            archived.writestr(member, pickled(content) if member.filename.endswith("data.pkl") else content)
    return new.getvalue()


def of_shape(size: tuple[int, int], stride: tuple[int, int]) -> bytes:
    """A checkpoint of a 3 x 3 matrix whose pickle says that it has another shape, and other strides."""

    def numbers(values: tuple[int, int]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"

    def changed(content: bytes) -> bytes:
        assert content.count(b"K\x03K\x03\x86") == content.count(b"K\x03K\x01\x86") == 1
        return content.replace(b"K\x03K\x03\x86", numbers(size)).replace(b"K\x03K\x01\x86", numbers(stride))

    return repacked(saved({"w": torch.eye(3)}), changed)


def array_of(shape: str) -> bytes:
    """A file of NumPy whose header says that it has this shape; it has 64 bytes."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


class Evil:
    """Unpickled, it makes a folder: what an attacker would have done may be anything."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._folder),)


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def _laughing(value: Any) -> list[Any]:
    """Ten times ten times ten ... of one value: 41 lists that are 10^40 values to whoever walks through them."""
    laughing = [value]
    for _ in range(40):
        laughing = [laughing] * 10
    return laughing


EYE = torch.eye(3)
FILES: dict[str, tuple[bytes, str]] = {
    "long_header.safetensors": (safetensors({}, length=2**60), "says that its header has 2^60 bytes"),
    "beyond_its_end.safetensors": (safetensors({"w": tensor([2, 2], 0, 1600)}, bytes(16)), "a tensor beyond the end"),
    "overlapping.safetensors": (
        safetensors({"w": tensor([2, 2], 0, 16), "v": tensor([2, 2], 0, 16)}, bytes(16)),
        "two tensors in the same bytes",
    ),
    "other_shape.safetensors": (safetensors({"w": tensor([3, 2], 0, 16)}, bytes(16)), "more numbers than bytes"),
    "overflowing.safetensors": (safetensors({"w": tensor([2**62, 8], 0, 0)}), "a size that is 0 modulo 2^64"),
    "negative.safetensors": (safetensors({"w": tensor([-2, -2], 0, 16)}, bytes(16)), "negative sizes"),
    "with_a_hole.safetensors": (safetensors({"w": tensor([2, 2], 8, 24)}, bytes(24)), "bytes that belong to nothing"),
    "one_name_twice.safetensors": (
        safetensors(
            b'{"w":%s,"w":%s}' % tuple(json.dumps(tensor([2, n], 0, 8 * n)).encode() for n in (2, 1)), bytes(16)
        ),
        "two tensors of one name, of which a reader may see either",
    ),
    "deep.safetensors": (safetensors(b'{"a":' * 10_000 + b"1" + b"}" * 10_000), "nested until the stack is full"),
    "holds_itself.pt": (saved({"w": EYE, "l": _cycle()}), "a list that holds itself, to be walked through for ever"),
    "laughs.pt": (saved({"x": _laughing(EYE)}), "a tensor that is there 10^40 times"),
    "laughs_without_a_tensor.pt": (saved({"w": EYE, "x": _laughing(1)}), "a number that is there 10^40 times"),
    "deep.pt": (
        repacked(saved({"w": EYE}), lambda content: b"\x80\x02" + b"]" * 9_000 + b"a" * 8_999 + b"."),
        "lists in lists until the stack is full",
    ),
    "grown.pt": (of_shape((1000, 1000), (1000, 1)), "a matrix larger than its storage, to read what is beside it"),
    "backwards.pt": (of_shape((3, 3), (-3, 1)), "strides that lead to before the beginning"),
    "negative.pt": (of_shape((-3, 3), (3, 1)), "a negative size"),
    "overflowing.pt": (of_shape((2**40, 2**30), (2**30, 1)), "a size that overflows"),
    "repeated.pt": (of_shape((2**20, 2**20), (0, 0)), "36 bytes that say they are 4 terabytes"),
    "large.npy": (array_of("(1099511627776, 8)"), "64 bytes that say they are 64 terabytes"),
    "large.npz": (zipped(w__npy=array_of("(1099511627776, 8)")), "the same, in an archive"),
    "bomb.npz": (zipped(w__npy=bytes(2**28 + 2**20)), "few bytes that unpack to many"),
    "object.npy": (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", 118)
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(69)
        + b"\n"
        + pickle.dumps([1]),
        "an array of objects, which is unpickled",
    ),
    "outside.index.json": (
        json.dumps({"weight_map": {"a": "../../../../etc/passwd"}}).encode(),
        "a part of the model that is any file of this machine",
    ),
    "absolute.index.json": (json.dumps({"weight_map": {"a": "/etc/passwd"}}).encode(), "the same by its whole path"),
    "deep.index.json": (b"[" * 200_000, "nested until the stack is full"),
    "nul.index.json": (json.dumps({"weight_map": {"a": "x\0.safetensors"}}).encode(), "a name that ends early for C"),
}
"""By name: the content, and what it tries."""

NAMES = [
    "<script>alert(1)</script>",
    "</code><img src=x onerror=alert(1)>",
    "$\\frac{$",
    "../../x",
    "/etc/passwd",
    "\x1b[31m\x1b]0;title\x07",
    "=cmd()|'/c calc'!A1",
    "[bold]x[/] [link=file:///]",
    "a\nb\r",
    "nul\x00z",
    "&amp;\"'>",
]
"""Names of matrices that would do something where they are not taken for text."""
