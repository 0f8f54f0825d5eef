"""The harness: a row of results, or the reason why there is none.

It refuses to time what is not correct: the answer is checked first, against FP64, and its error stored with the row.
A row is timed in several visits, a whole pass over the suite apart, so that its spread tells how much the machine
itself drifts, and not only how even one fraction of a second was.
"""

from __future__ import annotations

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

KEPT = 4 * 2**30
"""Bytes of problems that are kept for the next operation or visit."""


class Budget(NamedTuple):
    seconds: float
    """Of timing a row, in one visit."""
    longest: float
    """Seconds that one call may be expected to take; a slower one is skipped by name."""


QUICK, FULL = Budget(0.2, 4.0), Budget(1.0, 30.0)


class Skipped(Exception):
    """There is no row, and the message says why."""


@dataclass
class Samples:
    """Milliseconds of every round of a row, visit by visit."""

    wall: list[list[float]] = field(default_factory=list)
    bare: list[list[float]] = field(default_factory=list)
    device: list[list[float]] = field(default_factory=list)
    timer: str = ""
    seconds: float = 0.0
    """What the first visit expects a call to take; later ones time as many calls."""

    def columns(self) -> dict[str, object]:
        row: dict[str, object] = {"rounds": sum(map(len, self.wall)), "device_timer": self.timer}
        for name, visits in (("wall", self.wall), ("device", self.device)):
            if visits:
                spread = Spread.of(*visits)
                row |= {f"{name}_ms": spread.median, f"{name}_p20_ms": spread.p20, f"{name}_p80_ms": spread.p80}
        if self.bare:
            pairs = zip(self.wall, self.bare, strict=True)
            ratio = Spread.of(*([t / b for t, b in zip(timed, bare, strict=True)] for timed, bare in pairs))
            row |= {"ratio": ratio.median, "ratio_p20": ratio.p20, "ratio_p80": ratio.p80}
            row["baseline_ms"] = Spread.of(*self.bare).median
        return row


@dataclass
class Harness:
    """Measures on one device."""

    device: torch.device
    dtype: torch.dtype
    budget: Budget
    roofs: Roofs
    _problems: dict[tuple[object, str], Any] = field(default_factory=dict)
    _kept: int = 0
    _timed: dict[tuple[str, str, str], tuple[dict[str, object], Samples]] = field(default_factory=dict)
    _slowest: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def row(self, operation: Operation, name: str, provider: Provider, wall: Wall) -> dict[str, object]:
        """The first visit: check, then time.

        Returns:
            A row with status `ok`; or, without times, `wrong` where the error is above the limit, and `failed` where a
            provider that is not strict raised.

        Raises:
            Skipped: the provider cannot run here, or would take too long.
        """
        if reason := provider.unavailable(self.device):
            raise Skipped(reason)
        self._expect(operation, name, provider)
        with _threads(operation):
            row: dict[str, object] = {"operation": operation.name, "workload": name, "provider": provider.name}
            row |= {"dtype": str(self.dtype).removeprefix("torch."), "limit": float(operation.limit)}
            row |= environment.columns(self.device) | {"threads": str(torch.get_num_threads())}
            try:
                row |= self._check(operation, name, provider)
                if row["status"] == "ok":
                    self._timed[operation.name, name, provider.name] = (row, Samples())
                    self._time(operation, name, provider, wall, memory=True)
            except Exception as error:  # a rival may not take every workload, and says so in its own way
                self._timed.pop((operation.name, name, provider.name), None)
                if provider.strict or isinstance(error, Skipped):
                    raise
                row |= {"status": "failed", "note": f"{type(error).__name__}: {error}"[:200].replace("\n", " ")}
        return row

    def again(self, operation: Operation, name: str, provider: Provider) -> dict[str, object]:
        """A later visit: the row of the first, with more rounds. Raises Skipped where there was none."""
        if (operation.name, name, provider.name) not in self._timed:
            raise Skipped("not timed before")
        if provider.buffers == 1:
            raise Skipped(f"{provider.name}: visited once")
        with _threads(operation):
            return self._time(operation, name, provider, timing.wall_times, memory=False)

    def _problem(self, operation: Operation, name: str) -> Any:
        key = (type(operation).make, name)
        if key not in self._problems:
            if self._kept > KEPT:
                self._problems.clear()
                self._kept = 0
            self._problems[key] = operation.make(operation.workloads[name], self.dtype, self.device)
            self._kept += operation.bytes(self._problems[key])
        return self._problems[key]

    def _flops(self, operation: Operation, name: str) -> float:
        cost = operation.cost(operation.workloads[name], self.dtype)
        return cost.flops if cost else 0.0

    def _expect(self, operation: Operation, name: str, provider: Provider) -> None:
        """Skip what a smaller workload has shown to be hopeless."""
        known, seconds = self._slowest.get((operation.name, provider.name), (0.0, 0.0))
        expected = seconds * self._flops(operation, name) / known if known else 0.0
        if expected > 10 * self.budget.longest:
            raise Skipped(f"would take about {expected:.0f} s a call")

    def _check(self, operation: Operation, name: str, provider: Provider) -> dict[str, object]:
        problem = self._problem(operation, name)
        error = operation.error(problem, operation.answer(provider.prepare(operation.inputs(problem))))
        return {"error": error, "status": "ok" if error <= operation.limit else "wrong"}  # NaN is not correct either

    def _time(self, operation: Operation, name: str, provider: Provider, wall: Wall, memory: bool) -> dict[str, object]:
        row, samples = self._timed[operation.name, name, provider.name]
        problem = self._problem(operation, name)
        call = provider.prepare(operation.inputs(problem))
        operation.warm(call)
        if not samples.seconds:
            samples.seconds = timing.seconds(call)
            self._note(operation, name, provider, samples.seconds)
            if samples.seconds > self.budget.longest:
                raise Skipped(f"takes {samples.seconds:.1f} s a call")
        rounds, calls = timing.plan(samples.seconds, self.budget.seconds)
        if memory and rounds > 1 and "cupy" not in provider.needs:
            row["peak_mib"] = timing.peak_memory(call, self.device)
        # A call that takes long has more to wait for than a cache: it gets few buffers, for each is warmed up.
        warm = max(2, int(self.budget.seconds / samples.seconds))
        buffers = min(warm, provider.buffers, timing.buffer_count(operation.bytes(problem))) if rounds > 1 else 1
        rotated = [call, *(provider.prepare(operation.inputs(problem)) for _ in range(buffers - 1))]
        for other in rotated[1:]:
            operation.warm(other)
        turn, setup = itertools.cycle(rotated), None
        if operation.baseline is not None:
            baseline = operation.baseline.prepare(operation.inputs(problem))
            baseline()
            samples.bare.append([])
            calls, setup = 1, lambda: samples.bare[-1].append(1e3 * timing.seconds(baseline))
        samples.wall.append(wall(lambda: next(turn)(), setup, rounds, calls))
        if self.device.type == "cuda":
            times, samples.timer = timing.device_times(rotated, rounds, provider.graph)
            samples.device.append(times)
        row |= samples.columns()
        if cost := operation.cost(operation.workloads[name], self.dtype):
            roof, floor = self.roofs.floor(cost)
            measured = row.get("device_ms") or row["wall_ms"]
            assert isinstance(measured, float)
            row |= {"bytes": float(cost.bytes), "flops": float(cost.flops)}
            row |= {"roof": roof, "roof_ms": floor, "roof_share": floor / measured}
        return row

    def _note(self, operation: Operation, name: str, provider: Provider, seconds: float) -> None:
        flops = self._flops(operation, name)
        if flops > self._slowest.get((operation.name, provider.name), (0.0, 0.0))[0]:
            self._slowest[operation.name, provider.name] = (flops, seconds)


class _threads:
    """An operation's own number of CPU threads, for as long as it is measured."""

    def __init__(self, operation: Operation) -> None:
        self.before = torch.get_num_threads()
        self.within = operation.threads or self.before

    def __enter__(self) -> None:
        torch.set_num_threads(self.within)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)
