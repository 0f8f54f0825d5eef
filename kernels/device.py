"""What a launch heuristic asks of a device."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

Config = TypeVar("Config", bound=Hashable)


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability; that of an H100 for the CPU, where the interpreter runs."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def wide_tiles(capability: tuple[int, int]) -> bool:
    """Whether tiles of FP64 products may have 64 rows there.

    Where FP64 products have no tensor-core instructions (8.6, 8.9, 12.0) a thread holds whole rows and columns of its
    tiles, and registers run out; on an sm_100 Triton 3.6 puts such products into tensor memory, and fails.
    """
    return capability in ((8, 0), (9, 0))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`, without waiting for it."""
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever device its arguments are on: this makes it theirs."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


ARCHITECTURES = {
    "sm_80": (8, 0), "sm_86": (8, 6), "sm_89": (8, 9), "sm_90": (9, 0), "sm_100": (10, 0), "sm_120": (12, 0),
}  # fmt: skip
"""What kernels are compiled for ahead of time, by compute capability."""


def chosen(config: Callable[[tuple[int, int]], Config]) -> dict[Config, tuple[str, ...]]:
    """Each configuration that the heuristic `config` chooses, with the architectures it chooses it for."""
    found: dict[Config, tuple[str, ...]] = {}
    for name, capability in ARCHITECTURES.items():
        found[config(capability)] = (*found.get(config(capability), ()), name)
    return found
