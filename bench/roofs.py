"""The roofs of a device, measured: how fast it streams, and how fast it multiplies matrices of each dtype.

A row's floor is the longer of its bytes at the streaming rate and its flops at the product rate of its arithmetic.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import results
import timing
import torch
from costs import Cost
from results import Row
from timing import Spread

COPIED = {"cpu": 256 * 2**20, "cuda": 2**32}
SIDE = {"cpu": 2048, "cuda": 8192}
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


def measure(device: torch.device, budget: float) -> list[dict[str, object]]:
    """A row for each roof, operation `roof`."""
    rows = []
    count = COPIED[device.type] // 4
    source, target = torch.randn(count, device=device), torch.empty(count, device=device)
    cost = Cost(8 * count, 0, torch.float32)
    rows.append(_row("copy", cost, _spread(partial(target.copy_, source), device, budget)))
    # In place: a CPU's copy also reads what it overwrites, which its count of bytes does not have.
    rows.append(_row("scale", cost, _spread(partial(target.mul_, 1.0), device, budget)))
    del source, target
    n = SIDE[device.type]
    for name, (dtype, tf32) in PRODUCTS[device.type].items():
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        cost = Cost(3 * n * n * dtype.itemsize, 2 * n**3, dtype)
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            rows.append(_row(f"gemm-{name}", cost, _spread(partial(torch.mm, a, b), device, budget)))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed
    return rows


def _spread(call: timing.Call, device: torch.device, budget: float) -> Spread:
    call()
    rounds, calls = timing.plan(timing.seconds(call), budget)
    rounds = max(rounds, 5)  # every share of a roof stands on it
    if device.type == "cuda":
        return Spread.of(timing.device_times([call], rounds, graph=False)[0])
    return Spread.of(timing.wall_times(call, None, rounds, calls))


def _row(name: str, cost: Cost, spread: Spread) -> dict[str, object]:
    return {
        "operation": "roof",
        "workload": name,
        "provider": "torch",
        "dtype": str(cost.arithmetic).removeprefix("torch."),
        "status": "ok",
        "wall_ms": spread.median,
        "wall_p20_ms": spread.p20,
        "wall_p80_ms": spread.p80,
        "bytes": float(cost.bytes),
        "flops": float(cost.flops),
    }


class Roofs(NamedTuple):
    """Rates of a device."""

    bytes_per_ms: float
    flops_per_ms: dict[torch.dtype, float]

    @classmethod
    def of(cls, rows: list[Row]) -> Roofs:
        """From rows of results, of which those of other operations do not matter."""
        found = {row["workload"]: row for row in rows if row["operation"] == "roof"}
        rates = {}
        for name, dtype in (("fp64", torch.float64), ("fp32", torch.float32), ("bf16", torch.bfloat16)):
            if row := found.get(f"gemm-{name}"):
                rates[dtype] = _rate(row, "flops")
        return cls(max(_rate(found[name], "bytes") for name in ("copy", "scale")), rates)

    def floor(self, cost: Cost) -> tuple[str, float]:
        """What bounds an operation, and the milliseconds it takes at least."""
        moving = cost.bytes / self.bytes_per_ms
        computing = cost.flops / self.flops_per_ms[cost.arithmetic] if cost.arithmetic in self.flops_per_ms else 0.0
        name = str(cost.arithmetic).removeprefix("torch.")
        return ("bandwidth", moving) if moving >= computing else (f"{name} product", computing)


def _rate(row: Row, column: str) -> float:
    amount, milliseconds = results.number(row, column), results.number(row, "wall_ms")
    assert amount is not None
    assert milliseconds is not None
    return amount / milliseconds
