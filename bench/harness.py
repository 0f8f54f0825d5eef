"""The harness: a row of results, or the reason why there is none.

It refuses what is not correct: the answer is checked first, against FP64, and its error stored with the row; it is
checked again when the row has been timed, on other values in the same buffers; and a time below the operation's floor
is no time of a right answer. A row is timed in several visits, a whole pass over the suite apart, so that its spread
tells how much the machine itself drifts, and not only how even one fraction of a second was.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import environment
import results
import roofs
import timing
import torch
from operation import Operation
from providers import Provider
from roofs import Roofs
from samples import Samples
from timing import Call

Wall = Callable[[Call, Call | None, int, int], list[float]]
"""Times `(call, setup, rounds, calls a round)`: milliseconds a call, one for each round."""

KEPT = 4 * 2**30
"""Bytes of problems that are kept for the next operation or visit."""
LEAST_ROUNDS = 5
"""Of our own overhead, however long a call takes: one round does not tell a few per cent, only a rival's multiple."""


class Budget(NamedTuple):
    seconds: float
    """Of timing a row, in one visit."""
    longest: float
    """Seconds that one call may be expected to take; a slower one is skipped by name."""


QUICK, FULL = Budget(0.2, 4.0), Budget(1.0, 30.0)


class Skipped(Exception):
    """There is no row, and the message says why."""


class Wrong(Exception):
    """What was timed is no right answer, and the message says why."""


class Prepared(NamedTuple):
    """A call, and the buffer that it reads."""

    inputs: Any
    call: Call


@dataclass
class Harness:
    """Measures on one device.

    Args:
        remeasure: measures the device's roofs again, when something seems to be faster than they are; called once.
    """

    device: torch.device
    dtype: torch.dtype
    budget: Budget
    roofs: Roofs
    remeasure: Callable[[], Roofs] | None = None
    _problems: dict[tuple[object, str], Any] = field(default_factory=dict)
    _kept: int = 0
    _timed: dict[tuple[str, str, str], tuple[dict[str, object], Samples]] = field(default_factory=dict)
    _slowest: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def row(self, operation: Operation, name: str, provider: Provider, wall: Wall) -> dict[str, object]:
        """The first visit: check, time, and check again.

        Returns:
            A row with status `ok`; or, without times, `wrong` where an error is above the limit or a time below the
            floor, and `failed` where a provider that is not strict raised.

        A call that takes longer than it may is not made again: its one time is the row's, and the note says so.

        Raises:
            Skipped: the provider cannot run here, or would take too long.
        """
        if reason := provider.unavailable(self.device) or (operation.captures and timing.capture_failed()):
            raise Skipped(reason)
        self._expect(operation, name, provider)
        key = (operation.name, name, provider.name)
        with operation.own_threads():
            row: dict[str, object] = {"operation": operation.name, "workload": name, "provider": provider.name}
            row |= {"dtype": str(self.dtype).removeprefix("torch."), "limit": float(operation.limit)}
            row |= environment.columns(self.device) | {"threads": str(torch.get_num_threads())}
            row["products"] = provider.path(self.device, self.dtype)
            try:
                first = self._prepare(operation, name, provider)
                row |= self._check(operation, name, provider, first)
                if row["status"] == "ok" and "note" not in row:
                    self._timed[key] = (row, Samples())
                    self._time(operation, name, provider, wall, first)
            except Wrong as reason:
                return self._refused(key, row, "wrong", f"{reason}")
            except Exception as error:  # a rival may not take every workload, and says so in its own way
                row = self._refused(key, row, "failed", f"{type(error).__name__}: {error}")
                if provider.strict:
                    raise
        return row

    def again(self, operation: Operation, name: str, provider: Provider) -> dict[str, object]:
        """A later visit: the row of the first, with more rounds. Raises Skipped where there was none."""
        key = (operation.name, name, provider.name)
        if key not in self._timed:
            raise Skipped("not timed before")
        if provider.buffers == 1:
            raise Skipped(f"{provider.name}: visited once")
        with operation.own_threads():
            try:
                return self._time(operation, name, provider, timing.wall_times, None)
            except Wrong as reason:
                return self._refused(key, self._timed[key][0], "wrong", f"{reason}")

    def _refused(self, key: tuple[str, str, str], row: dict[str, object], status: str, note: str) -> dict[str, object]:
        """The row without its times; it is not visited again."""
        self._timed.pop(key, None)
        kept = {column: value for column, value in row.items() if column not in results.TIMES}
        return kept | {"status": status, "note": note[:200].replace("\n", " ")}

    def _problem(self, operation: Operation, name: str) -> Any:
        key = (type(operation).make, name)
        if key not in self._problems:
            if self._kept > KEPT:
                self._problems.clear()
                self._kept = 0
            self._problems[key] = operation.make(operation.workloads[name], self.dtype, self.device)
            self._kept += operation.bytes(self._problems[key])
        return self._problems[key]

    def _prepare(self, operation: Operation, name: str, provider: Provider) -> Prepared:
        inputs = operation.inputs(self._problem(operation, name))
        return Prepared(inputs, provider.prepare(inputs))

    def _flops(self, operation: Operation, name: str) -> float:
        cost = operation.cost(operation.workloads[name], self.dtype)
        return cost.flops if cost else 0.0

    def _expect(self, operation: Operation, name: str, provider: Provider) -> None:
        """Skip what a smaller workload has shown to be hopeless."""
        known, seconds = self._slowest.get((operation.name, provider.name), (0.0, 0.0))
        expected = seconds * self._flops(operation, name) / known if known else 0.0
        if expected > 3 * self.budget.longest:
            raise Skipped(f"would take about {expected:.0f} s a call")

    def _check(self, operation: Operation, name: str, provider: Provider, first: Prepared) -> dict[str, object]:
        """The first call, which is the warm-up too, so that a slow one is not paid for twice.

        It loads and compiles, which a user waits for once: it may take twice as long as a call may, and those that
        compile, or are ours, as long as they like.
        """
        start = timing.clock()
        answer = operation.answer(first.call)
        seconds = (timing.clock() - start) / operation.checked_calls
        error = operation.error(self._problem(operation, name), answer)
        if not error <= operation.limit:  # NaN is not correct either
            return {"error": error, "status": "wrong"}
        if seconds > 2 * self.budget.longest and not (provider.strict or provider.compiled):
            once = self._once(operation, name, provider, seconds, "one call, the first, which loads libraries too")
            return {"error": error, "status": "ok"} | once
        return {"error": error, "status": "ok"}

    def _once(
        self, operation: Operation, name: str, provider: Provider, seconds: float, note: str
    ) -> dict[str, object]:
        """Times of a row whose call takes so long that there is only one; it is not visited again."""
        self._timed.pop((operation.name, name, provider.name), None)
        self._note(operation, name, provider, seconds)
        milliseconds = 1e3 * seconds
        columns = Samples(wall=[[milliseconds]]).columns() | {"note": note}
        return columns | self._under_roofs(operation, name, provider, milliseconds)

    def _time(
        self, operation: Operation, name: str, provider: Provider, wall: Wall, first: Prepared | None
    ) -> dict[str, object]:
        """Times a row; on the first visit, with the call that was checked, which is checked again."""
        row, samples = self._timed[operation.name, name, provider.name]
        problem = self._problem(operation, name)
        inputs, call = first or self._prepare(operation, name, provider)
        if first is None:
            operation.warm(call)
        if not samples.seconds:
            samples.seconds = timing.seconds(call)
            if samples.seconds > self.budget.longest:
                row |= self._once(operation, name, provider, samples.seconds, "one call, the second")
                return row
            self._note(operation, name, provider, samples.seconds)
        rounds, calls = timing.plan(samples.seconds, self.budget.seconds)
        if operation.baseline is not None and provider.ours:
            rounds = max(rounds, LEAST_ROUNDS)
        if first and rounds > 1 and "cupy" not in provider.needs:
            row["peak_mib"] = timing.peak_memory(call, self.device)
        # A call that takes long has more to wait for than a cache: it gets few buffers, for each is warmed up.
        warm = max(2, int(self.budget.seconds / samples.seconds))
        buffers = min(warm, provider.buffers, timing.buffer_count(operation.bytes(problem))) if rounds > 1 else 1
        rotated = [call, *(self._prepare(operation, name, provider).call for _ in range(buffers - 1))]
        for other in rotated[1:]:
            operation.warm(other)
        turn, setup = itertools.cycle(rotated), None
        if operation.baseline is not None:
            baseline = operation.baseline.prepare(operation.inputs(problem))
            baseline()
            samples.bare.append([])
            calls, setup = 1, lambda: samples.bare[-1].append(1e3 * timing.seconds(baseline))
        samples.wall.append(wall(lambda: next(turn)(), setup, rounds, calls))
        checked = [call]
        if self.device.type == "cuda" and rounds > 1:  # once more would tell no more of one long call
            times = timing.device_times(rotated, rounds, provider.graph)
            if samples.timer in ("", times.timer):  # by another clock a later visit would tell of no drift
                samples.device.append(times.milliseconds)
                samples.timer = times.timer
                row |= {"note": times.note} if times.note else {}
            checked += times.timed[:1] if times.timer == "graph" else []
        row |= samples.columns()
        row |= self._under_roofs(operation, name, provider, row.get("device_ms") or row["wall_ms"])
        if first:
            error = operation.recheck(problem, inputs, checked)
            if not error <= operation.limit:
                raise Wrong(f"right at first, but off by {error:.3g} when its buffers had got other values")
        return row

    def _under_roofs(self, operation: Operation, name: str, provider: Provider, measured: Any) -> dict[str, object]:
        """What the operation costs, and what its floor is of the time it took. Raises Wrong below the floor."""
        cost = operation.cost(operation.workloads[name], self.dtype)
        if cost is None:
            return {}
        columns: dict[str, object] = {"bytes": float(cost.bytes), "flops": float(cost.flops)}
        if provider.buffers < timing.buffer_count(operation.bytes(self._problem(operation, name))):
            return columns  # a cache may hold its few buffers, which none holds of a roof's
        products = provider.needs_products(self.device, self.dtype)
        roof, floor = self.roofs.floor(cost, products)
        if measured < roofs.ALLOWANCE * floor and self.remeasure is not None:
            self.roofs = self.roofs.faster(self.remeasure())  # it may be the machine that is faster now
            self.remeasure = None  # which it is once
            roof, floor = self.roofs.floor(cost, products)
        if measured < roofs.ALLOWANCE * floor:
            raise Wrong(f"faster than its floor: {measured:.3g} ms where {floor:.3g} ms is the least")
        return columns | {"roof": roof, "roof_ms": floor, "roof_share": floor / measured}

    def _note(self, operation: Operation, name: str, provider: Provider, seconds: float) -> None:
        flops = self._flops(operation, name)
        if flops > self._slowest.get((operation.name, provider.name), (0.0, 0.0))[0]:
            self._slowest[operation.name, provider.name] = (flops, seconds)
