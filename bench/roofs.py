"""The roofs of a device, measured: how long it takes to move so many bytes, and how fast it multiplies matrices.

A row's floor is the longer of two times: its bytes, moved as fast as this device has been seen to move as many; and the
flops of the matrix products that it cannot do without (`Provider.products`), at the rate of a large product. A floor
has to be a time that nothing can beat. So each is the fastest of what was tried, and a size of bytes has a time of its
own: 45 MB do not move at the rate of 4 GB, and what fits into a cache moves faster.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import timing
import torch
from costs import Cost
from timing import Call, Spread
from torch import Tensor

SIZES = {"cpu": tuple(2**k for k in range(16, 29, 2)), "cuda": tuple(2**k for k in range(16, 33, 2))}
"""Bytes moved, reads and writes together."""
SIDE = {"cpu": 1536, "cuda": 8192}
PRODUCTS: dict[str, dict[str, tuple[torch.dtype, bool]]] = {
    "cpu": {"fp64": (torch.float64, False), "fp32": (torch.float32, False)},
    "cuda": {
        "fp64": (torch.float64, False),
        "fp32": (torch.float32, False),
        "tf32": (torch.float32, True),
        "bf16": (torch.bfloat16, False),
    },
}
"""Name -> dtype, and whether TF32 may be used."""
COPYING, MULTIPLYING = 0.02, 0.1
"""Seconds of timing, for each size and way of moving bytes, and for each product."""
ALLOWANCE = 0.9
"""Share of its floor below which a time is refused: roofs are measured too, on a device whose clocks wander."""


def measure(device: torch.device) -> list[dict[str, object]]:
    """A row for each roof, operation `roof`: a second or two on a GPU, a few on a CPU."""
    return [*_copies(device), *_products(device)]


def _copies(device: torch.device) -> Iterator[dict[str, object]]:
    sizes = SIZES[device.type]
    if device.type == "cuda":
        sizes = tuple(size for size in sizes if 4 * size <= torch.cuda.mem_get_info(device)[0])
    # Ones, not zeros: a CPU maps memory that was never written to one page, which its cache holds.
    pool = torch.ones(max(timing.buffer_count(size) * size for size in sizes) // 4, device=device)
    for size in sizes:
        timed = {way: _spread(calls, device, COPYING) for way, calls in _ways(pool, size).items()}
        way = min(timed, key=lambda way: timed[way].p20)
        yield _row(f"copy-{_label(size)}", torch.float32, timed[way]) | {"bytes": float(size), "note": way}


def _ways(pool: Tensor, size: int) -> dict[str, list[Call]]:
    """Ways of moving `size` bytes, each over as many buffers as the harness gives to an operation of that size.

    The fastest counts. A CPU's copy also reads what it overwrites, which its count of bytes does not have; scaling in
    place does not, nor does a sum, and most operations only read.
    """

    def buffers(footprint: int) -> Tensor:
        count = timing.buffer_count(footprint)
        return pool[: count * footprint // 4].view(count, footprint // 4)

    total = torch.empty((), device=pool.device)
    halves = buffers(size).unflatten(1, (2, -1))
    return {
        "copied": [partial(target.copy_, source) for source, target in halves],
        "scaled in place": [partial(half.mul_, 1.0) for half in buffers(size // 2)],
        "summed": [partial(torch.sum, buffer, 0, out=total) for buffer in buffers(size)],
    }


def _products(device: torch.device) -> Iterator[dict[str, object]]:
    n = SIDE[device.type]
    for name, (dtype, tf32) in PRODUCTS[device.type].items():
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            spread = _spread([partial(torch.mm, a, b)], device, MULTIPLYING)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed
        yield _row(f"gemm-{name}", dtype, spread) | {"flops": 2.0 * n**3}


def _spread(calls: Sequence[Call], device: torch.device, budget: float) -> Spread:
    """Timed as the harness times an operation: the calls in turn, on CUDA each as a graph."""
    for call in calls:
        call()
    rounds, each = timing.plan(timing.seconds(calls[0]), budget)
    rounds = max(rounds, 5)  # every floor stands on it
    if device.type == "cuda":
        return Spread.of(timing.device_times(calls, rounds, graph=True).milliseconds)
    turn = itertools.cycle(calls)
    return Spread.of(timing.wall_times(lambda: next(turn)(), None, rounds, each))


def _row(name: str, dtype: torch.dtype, spread: Spread) -> dict[str, object]:
    return {
        "operation": "roof",
        "workload": name,
        "provider": "torch",
        "dtype": str(dtype).removeprefix("torch."),
        "status": "ok",
        "wall_ms": spread.median,
        "wall_p20_ms": spread.p20,
        "wall_p80_ms": spread.p80,
    }


def _label(size: int) -> str:
    power = min((size.bit_length() - 1) // 10, 3)
    return f"{size >> 10 * power}{('B', 'KiB', 'MiB', 'GiB')[power]}"


class Roofs(NamedTuple):
    """What a device does at best."""

    copies: tuple[tuple[float, float], ...]
    """Bytes moved, and the fewest milliseconds that moving as many took; both ascending."""
    flops_per_ms: dict[torch.dtype, float]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Roofs:
        """From what was measured; the fastest of a roof's rounds count, not their median."""
        found = {row["workload"]: row for row in rows if row["operation"] == "roof"}
        rates = {}
        for name, dtype in (("fp64", torch.float64), ("fp32", torch.float32), ("bf16", torch.bfloat16)):
            if row := found.get(f"gemm-{name}"):
                rates[dtype] = float(row["flops"]) / float(row["wall_p20_ms"])
        timed = [(float(r["bytes"]), float(r["wall_p20_ms"])) for name, r in found.items() if name.startswith("copy-")]
        return cls(_ascending(timed), rates)

    def faster(self, other: Roofs) -> Roofs:
        """The faster of two measurements of one device, roof by roof."""
        rates = {d: max(rate, other.flops_per_ms.get(d, 0.0)) for d, rate in self.flops_per_ms.items()}
        return Roofs(_ascending([*self.copies, *other.copies]), rates)

    def floor(self, cost: Cost, products: torch.dtype | None) -> tuple[str, float]:
        """What bounds an operation, and the milliseconds it takes at least.

        Args:
            cost: what it has to do.
            products: arithmetic of the matrix products that its flops are of; None: the flops do not count.
        """
        moving = self.moving(cost.bytes)
        computing = cost.flops / self.flops_per_ms[products] if products in self.flops_per_ms else 0.0
        if moving >= computing:
            return "bandwidth", moving
        return f"{str(products).removeprefix('torch.')} product", computing

    def moving(self, size: float) -> float:
        """The fewest milliseconds for moving `size` bytes, between measured sizes by logarithms of size and time.

        Below the smallest, it is the time of the smallest; above the largest, its rate goes on. The end of a cache may
        lie between two sizes, and nobody knows where: up to the larger one, the rate of the smaller one is possible.
        """
        sizes = [measured for measured, _ in self.copies]
        above = bisect.bisect_right(sizes, size)
        if not above:
            return self.copies[0][1]
        small, quick = self.copies[above - 1]
        at_its_rate = quick * size / small
        if above == len(sizes):
            return at_its_rate
        large, slow = self.copies[above]
        between = math.log(size / small) / math.log(large / small)
        return min(at_its_rate, quick * (slow / quick) ** between)


def _ascending(timed: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """By size; none may take longer than a larger one did, for that one has moved as many bytes and more."""
    fewest: dict[float, float] = {}
    for size, time in timed:
        fewest[size] = min(time, fewest.get(size, math.inf))
    largest_first = sorted(fewest, reverse=True)
    times = itertools.accumulate((fewest[size] for size in largest_first), min)
    return tuple(reversed(list(zip(largest_first, times, strict=True))))
