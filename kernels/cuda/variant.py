"""Variant: a kernel in CUDA C++ as a launch needs it, and the arguments of a launch as CUDA's driver takes them."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch


class _Type(NamedTuple):
    name: str
    """As in a Triton signature."""
    code: str
    """How `struct` packs it into 8 bytes."""
    dtype: torch.dtype


_TYPES = {
    "double": _Type("fp64", "d", torch.float64), "float": _Type("fp32", "f4x", torch.float32),
    "long long": _Type("i64", "q", torch.int64), "unsigned long long": _Type("i64", "q", torch.int64),
    "int": _Type("i32", "i4x", torch.int32), "unsigned": _Type("i32", "i4x", torch.int32),
}  # fmt: skip
_NAMED = {kind.name: kind for kind in _TYPES.values()}


@dataclass(frozen=True, kw_only=True, eq=False)
class CudaVariant:
    """A kernel in CUDA C++ as a launch needs it: what `kernels.variant.Variant` is for one of Triton.

    Args:
        file: the `.cu` file in this folder.
        name: of the kernel, an `extern "C" __global__` function whose parameters' types are spelled out in the file.
        threads: of a block.
        shared: dynamic shared memory of a block, in bytes.
        macros: preprocessor macros that are defined beside the file's own, by name.
    """

    file: str
    name: str
    threads: int
    shared: int = 0
    macros: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """Tells this variant from every other."""
        return (self.file, self.name, self.threads, self.shared, *self.macros.items())

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(__file__).parent / self.file

    @cached_property
    def source(self) -> str:
        """The text of the file."""
        return self.path.read_text()

    @cached_property
    def headers(self) -> dict[str, str]:
        """The texts that the file may include, by name."""
        return {path.name: path.read_text() for path in sorted(self.path.parent.glob("*.cuh"))}

    @cached_property
    def signature(self) -> dict[str, str]:
        """Type of every parameter in the kernel's order, as Triton writes it: `"*fp64"`, `"i32"`.

        Raises:
            ValueError: the file has no such kernel, or a parameter is of another type than those of `_TYPES`.
        """
        text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", self.source, flags=re.DOTALL)
        found = re.search(rf"__global__\b[^;{{}}]*?\b{self.name}\s*\(([^)]*)\)", text)
        if found is None:
            raise ValueError(f"{self.file} has no kernel {self.name}")
        return dict(_parameter(given) for given in found[1].split(","))

    def __str__(self) -> str:
        """What the file says of this variant behind `// launch: NAME`, for those who compile it ahead of time."""
        macros = [f"{name}={value}" for name, value in self.macros.items()]
        return " ".join([f"threads={self.threads}", f"shared={self.shared}", *macros])


def _parameter(given: str) -> tuple[str, str]:
    """Name and type of a parameter, given as in `const double* __restrict__ gram`."""
    words = re.sub(r"\b(const|volatile|__restrict__)\b", " ", given.replace("*", " * ")).split()
    pointer, kind = "*" in words, " ".join(word for word in words[:-1] if word != "*")
    if kind not in _TYPES or words[:-1].count("*") > 1:
        raise ValueError(f"the parameter {given.strip()!r} is none of {', '.join(_TYPES)}, nor a pointer to one")
    return words[-1], "*" * pointer + _TYPES[kind].name


class Words(tuple[Any, ...]):
    """The arguments of a launch in the kernel's order, tensors as addresses; also packed, as the driver takes them.

    Args:
        signature: of the kernel.
        arguments: by name. Tensors have to stay where they are as long as these words are used; None is a null pointer.

    Attributes:
        address: of an array of pointers to the arguments; valid as long as this object lives.

    Raises:
        TypeError: an argument is missing, or too many, or a tensor is of another dtype than the kernel reads.
        struct.error: a number is not of the parameter's type, or too large for it.
    """

    address: int
    _kept: tuple[Any, ...]

    def __new__(cls, signature: Mapping[str, str], arguments: Mapping[str, Any]) -> Words:
        if signature.keys() != arguments.keys():
            raise TypeError(f"the kernel takes {', '.join(signature)}, and got {', '.join(arguments)}")
        values, layout = [], "="
        for name, kind in signature.items():
            value, type_ = arguments[name], _NAMED[kind.removeprefix("*")]
            if kind.startswith("*"):
                if value is not None and value.dtype != type_.dtype:
                    raise TypeError(f"{name} is {value.dtype}, but the kernel reads {type_.dtype}")
                value = 0 if value is None else value.data_ptr()
            values.append(value)
            layout += "Q" if kind.startswith("*") else type_.code
        words = super().__new__(cls, values)
        memory = ctypes.create_string_buffer(8 * len(values))  # 8 bytes for each
        struct.pack_into(layout, memory, 0, *values)
        first = ctypes.addressof(memory)
        pointers = (ctypes.c_void_p * len(values))(*range(first, first + 8 * len(values), 8))
        words.address, words._kept = ctypes.addressof(pointers), (memory, pointers)
        return words
