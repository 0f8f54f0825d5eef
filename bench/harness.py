"""The harness: a row of results, or the reason why there is none.

It refuses to time what is not correct: the answer is checked first, against FP64, and its error stored with the row.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import environment
import timing
import torch
from operations import Operation
from providers import Provider
from roofs import Roofs
from timing import Call, Spread

Wall = Callable[[Call, Call | None, int, int], list[float]]
"""Times `(call, setup, rounds, calls a round)`: milliseconds a call, one for each round."""


class Budget(NamedTuple):
    seconds: float
    """Of timing a row."""
    longest: float
    """Seconds that one call may be expected to take; a slower one is skipped by name."""


QUICK, FULL = Budget(0.4, 4.0), Budget(1.5, 30.0)


class Skipped(Exception):
    """There is no row, and the message says why."""


@dataclass
class Harness:
    """Measures on one device."""

    device: torch.device
    dtype: torch.dtype
    budget: Budget
    roofs: Roofs
    _problem: tuple[Any, Any] = (None, None)
    _slowest: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def row(self, operation: Operation, name: str, provider: Provider, wall: Wall) -> dict[str, object]:
        """Check, then time.

        Returns:
            A row with status `ok`; or, without times, `wrong` where the error is above the limit, and `failed` where a
            provider that is not strict raised.

        Raises:
            Skipped: the provider cannot run here, or would take too long.
        """
        if reason := provider.unavailable(self.device):
            raise Skipped(reason)
        workload = operation.workloads[name]
        cost = operation.cost(workload, self.dtype)
        self._expect(operation, provider, cost.flops if cost else 0.0)
        threads = torch.get_num_threads()
        torch.set_num_threads(operation.threads or threads)
        try:
            row = self._measure(operation, self._make(operation, name), provider, wall, cost.flops if cost else 0.0)
            where = environment.columns(self.device) | {"threads": str(torch.get_num_threads())}
        finally:
            torch.set_num_threads(threads)
        row |= where | {
            "operation": operation.name,
            "workload": name,
            "provider": provider.name,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        if cost and row["status"] == "ok":
            roof, floor = self.roofs.floor(cost)
            measured = row.get("device_ms") or row["wall_ms"]
            assert isinstance(measured, float)
            row |= {"bytes": float(cost.bytes), "flops": float(cost.flops)}
            row |= {"roof": roof, "roof_ms": floor, "roof_share": floor / measured}
        return row

    def _make(self, operation: Operation, name: str) -> Any:
        """The problem, kept for the next provider: the suite goes through a workload's providers in turn."""
        key = (operation.name, name)
        if self._problem[0] != key:
            self._problem = (None, None)
            gc.collect()
            self._problem = (key, operation.make(operation.workloads[name], self.dtype, self.device))
        return self._problem[1]

    def _expect(self, operation: Operation, provider: Provider, flops: float) -> None:
        """Skip what a smaller workload has shown to be hopeless."""
        known, seconds = self._slowest.get((operation.name, provider.name), (0.0, 0.0))
        if known and seconds * flops / known > 3 * self.budget.longest:
            raise Skipped(f"would take about {seconds * flops / known:.0f} s a call")

    def _measure(
        self, operation: Operation, problem: Any, provider: Provider, wall: Wall, flops: float
    ) -> dict[str, object]:
        row: dict[str, object] = {"limit": float(operation.limit), "status": "ok"}
        try:
            call = provider.prepare(operation.inputs(problem))
            answer, seconds = _timed(lambda: operation.answer(call))
        except Exception as error:  # a rival may not take every workload, and says so in its own way
            if provider.strict:
                raise
            return row | {"status": "failed", "note": f"{type(error).__name__}: {error}"[:200].replace("\n", " ")}
        row["error"] = operation.error(problem, answer)
        del answer
        if not row["error"] <= operation.limit:  # NaN is not correct either
            return row | {"status": "wrong"}
        if seconds < self.budget.longest:  # the first calls may have compiled or loaded something
            seconds = min(_timed(call)[1] for _ in range(2))
        if flops > self._slowest.get((operation.name, provider.name), (0.0, 0.0))[0]:
            self._slowest[operation.name, provider.name] = (flops, seconds)
        rounds, calls = timing.plan(seconds, self.budget.seconds)
        row["peak_mib"] = timing.peak_memory(call, self.device) if rounds > 1 else None
        buffers = timing.buffer_count(operation.bytes(problem)) if rounds > 1 else 1
        rotated = [call, *(provider.prepare(operation.inputs(problem)) for _ in range(buffers - 1))]
        for other in rotated[1:]:
            other()
        return row | self._times(operation, problem, provider, rotated, rounds, calls, wall)

    def _times(
        self,
        operation: Operation,
        problem: Any,
        provider: Provider,
        rotated: list[Call],
        rounds: int,
        calls: int,
        wall: Wall,
    ) -> dict[str, object]:
        turn = itertools.cycle(rotated)
        bare: list[float] = []
        setup = None
        if operation.baseline is not None:
            baseline = operation.baseline.prepare(operation.inputs(problem))
            baseline()
            calls, setup = 1, lambda: bare.append(1e3 * _timed(baseline)[1])
        times = wall(lambda: next(turn)(), setup, rounds, calls)
        spread = Spread.of(times)
        row: dict[str, object] = {"wall_ms": spread.median, "wall_p20_ms": spread.p20, "wall_p80_ms": spread.p80}
        row["rounds"] = rounds
        if bare:
            ratio = Spread.of([t / b for t, b in zip(times, bare[-len(times) :], strict=True)])
            row |= {"baseline_ms": Spread.of(bare).median, "ratio": ratio.median}
            row |= {"ratio_p20": ratio.p20, "ratio_p80": ratio.p80}
        if self.device.type == "cuda":
            device, timer = timing.device_times(rotated, rounds, provider.graph)
            row |= {"device_ms": device.median, "device_p20_ms": device.p20, "device_p80_ms": device.p80}
            row["device_timer"] = timer
        return row


def _timed(call: Call) -> tuple[Any, float]:
    """What a call returns, and the seconds it took."""
    start = timing.clock()
    answer = call()
    return answer, timing.clock() - start
