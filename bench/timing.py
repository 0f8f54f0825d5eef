"""Timing one call: what the user waits, what the device works, and the memory it takes."""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

Call = Callable[[], Any]

CACHE = 256 * 2**20
"""Bytes that rotated buffers cover together, if `MOST_BUFFERS` do: more than any CPU's or GPU's cache."""
MOST_BUFFERS = 32
AHEAD = 60_000
"""Cycles of a GPU, some 30 us, in which the host surely launches a graph and two events."""


class Spread(NamedTuple):
    """Milliseconds, or ratios."""

    median: float
    """Of all rounds."""
    p20: float
    """The lowest 20th percentile of a visit."""
    p80: float
    """The highest 80th percentile of a visit."""

    @classmethod
    def of(cls, *visits: Sequence[float]) -> Spread:
        """Of the rounds of each visit.

        Percentiles of all rounds together would hide the drift of the machine between visits behind the longest one.
        """
        rounds = [value for visit in visits for value in visit]
        return cls(
            statistics.median(rounds),
            min(_quintiles(visit)[0] for visit in visits),
            max(_quintiles(visit)[-1] for visit in visits),
        )


def _quintiles(values: Sequence[float]) -> Sequence[float]:
    return statistics.quantiles(values, n=5, method="inclusive") if len(values) > 1 else values


def clock() -> float:
    """`time.perf_counter`, once the CUDA device (if there is one in use) has done all it was asked to."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def buffer_count(size: int) -> int:
    """How many buffers of `size` bytes to rotate."""
    return max(2, min(MOST_BUFFERS, math.ceil(CACHE / max(size, 1))))


def plan(seconds: float, budget: float) -> tuple[int, int]:
    """Rounds, and calls a round, for a call of `seconds`: a round of at least a millisecond, `budget` seconds in all.

    At least 5 rounds, so that percentiles mean something, but for a call that takes the whole budget: 1.
    """
    if seconds > budget:
        return 1, 1
    calls = max(1, math.ceil(1e-3 / max(seconds, 1e-9)))
    return max(5, min(200, int(budget / (calls * seconds)))), calls


def seconds(call: Call) -> float:
    """Seconds that a call takes."""
    start = clock()
    call()
    return clock() - start


def wall_times(call: Call, setup: Call | None, rounds: int, calls: int) -> list[float]:
    """Milliseconds a call, of each round of so many `calls`; `setup` runs before each round, untimed."""
    times = []
    for _ in range(rounds):
        if setup is not None:
            setup()
        start = clock()
        for _ in range(calls):
            call()
        times.append((clock() - start) / calls * 1e3)
    return times


class DeviceTimes(NamedTuple):
    milliseconds: list[float]
    timer: str
    """`graph`: a graph's replay; `events`: events around the call."""
    timed: list[Call]
    """What was timed: the calls, or replays of their graphs, which return what was captured."""
    note: str = ""
    """Why it is events though a graph was asked for."""


def device_times(calls: Sequence[Call], rounds: int, graph: bool) -> DeviceTimes:
    """Times on the current CUDA device of calls that are warm, in turn.

    Replay leaves out the gaps between launches; events include them, where the host is the slower one.
    """
    timed, timer, why = list(calls), "events", capture_failed()
    if graph and not why:
        try:
            timed, timer = [_captured(call) for call in calls], "graph"
        except RuntimeError as error:  # what cannot be captured is timed all the same, and the row says how
            why = _reason(error)
            torch.cuda.synchronize()
    if timer == "graph":
        for call in timed:
            call()
        # The device waits until the host has launched what it is to do: a launch takes longer than a small graph.
        torch.cuda._sleep(AHEAD * rounds)
    pairs = []
    for call in itertools.islice(itertools.cycle(timed), rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    note = f"no graph: {why}" if graph and why else ""
    return DeviceTimes([start.elapsed_time(end) for start, end in pairs], timer, timed, note)


_failures: list[str] = []


def capture_failed() -> str:
    """Why no graph can be captured in this process any more; empty: one can."""
    return _failures[0] if _failures else ""


def lost(device: torch.device) -> str:
    """Why a CUDA device does nothing more for this process, as after an illegal access; empty: it does."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError as error:
        return _reason(error)
    return ""


@contextlib.contextmanager
def capture(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """`torch.cuda.graph`. Once a capture has failed, PyTorch lets no other one succeed: that is remembered.

    It does not leave its stream either, which would be the current one of all that follows.
    """
    try:
        with torch.cuda.graph(graph):
            yield
    except RuntimeError as error:
        _failures.append(f"a capture has failed: {_reason(error)}")
        torch.cuda.set_stream(torch.cuda.default_stream())
        raise


def _reason(error: RuntimeError) -> str:
    return f"{error}".partition("\n")[0][:120]


def _captured(call: Call) -> Call:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # lazy initialisation must not happen in the capture
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with capture(graph):
        answer = call()

    def replay() -> Any:
        graph.replay()
        return answer

    return replay


def peak_memory(call: Call, device: torch.device) -> float | None:
    """MiB of a CUDA device that a call takes above what is there before; None on a CPU, whose allocators do not tell.

    PyTorch's allocator tells: a library with an allocator of its own does not show.
    """
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
