"""Devices: what launch heuristics and launchers need to know of one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Config = TypeVar("Config", bound=Hashable)


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability (major, minor); for the CPU, on which Triton's interpreter runs kernels, that of an H100."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def wide_tiles(capability: tuple[int, int]) -> bool:
    """Whether tiles of FP64 products may have 64 rows on devices of this compute capability.

    Without FP64 instructions of the tensor cores (8.6, 8.9, 12.0) a thread holds whole rows and columns of its tiles,
    and runs out of registers. On 10.0, Triton 3.6 puts FP64 products of 64 rows into tensor memory, and fails.
    """
    return capability in ((8, 0), (9, 0))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a CPU tensor to `device`, by way of pinned memory, so that the host does not wait for the copy."""
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes `device` the current one: Triton launches there, whatever device the arguments of a launch are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


ARCHITECTURES = {
    "sm_80": (8, 0), "sm_86": (8, 6), "sm_89": (8, 9), "sm_90": (9, 0), "sm_100": (10, 0), "sm_120": (12, 0),
}  # fmt: skip
"""Architectures that kernels are compiled for ahead of time, and their compute capabilities."""


def chosen(config: Callable[[tuple[int, int]], Config]) -> dict[Config, tuple[str, ...]]:
    """Each configuration that the heuristic `config` chooses, with the architectures that it is chosen for."""
    found: dict[Config, tuple[str, ...]] = {}
    for name, capability in ARCHITECTURES.items():
        found[config(capability)] = (*found.get(config(capability), ()), name)
    return found


class Rates(NamedTuple):
    """Operations a clock and multiprocessor, two for a product and its addition, from NVIDIA's data sheets."""

    fp64: int
    """Of FP64 numbers, by tensor cores where they have them."""
    int8: int
    """Of INT8 numbers, by tensor cores, summed as INT32."""


RATES = {
    (8, 0): Rates(128, 4096), (8, 6): Rates(4, 2048), (8, 9): Rates(4, 2048), (9, 0): Rates(256, 8192),
    (10, 0): Rates(128, 16384), (10, 3): Rates(4, 512), (12, 0): Rates(4, 2048),
}  # fmt: skip
"""By compute capability: A100; A10, A40 and RTX 30; L4, L40S and RTX 40; H100 and H200; B200; B300; RTX 50. Cards that
are not listed make products in FP64. The tests of `bench/cards.py` compare these rates with the data sheets."""
