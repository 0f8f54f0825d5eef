"""What an operation is: the base of all that is measured."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import fresh
import torch
from costs import Cost
from providers import Provider
from timing import Call
from workloads import WORKLOADS


def worst(errors: Iterable[float]) -> float:
    """The largest error; infinite where one is not a number, which `max` would pass over."""
    return max([0.0, *(math.inf if math.isnan(error) else error for error in errors)])


class Operation(ABC):
    """Base of all: inputs are a workload's matrices, and a buffer of them is a copy.

    `make` is called once a workload, `inputs` once a buffer; `answer` runs a call for the check, and `error` compares
    what came out with the truth. `recheck` does so again once the calls were timed.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    """What the error is measured in."""
    limit: ClassVar[float]
    """Error up to which an answer is correct."""
    providers: ClassVar[tuple[Provider, ...]]
    workloads: ClassVar[Mapping[str, Any]] = WORKLOADS
    quick: ClassVar[tuple[str, ...]]
    """Workloads of a quick run on a CPU."""
    headline: ClassVar[tuple[str, ...]] = ()
    """Workloads without which the project's goals cannot be judged, the most telling first."""
    baseline: ClassVar[Provider | None] = None
    """Timed in turn with every provider, where overhead over it is the point."""
    threads: ClassVar[int | None] = None
    """CPU threads, where not PyTorch's default."""
    checked_calls: ClassVar[int] = 1
    """Calls that make the answer which is checked."""
    captures: ClassVar[bool] = False
    """Whether its providers capture a CUDA graph themselves, and are nothing without."""

    @contextlib.contextmanager
    def own_threads(self) -> Iterator[None]:
        """Its number of CPU threads, for as long as it is measured."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def make(self, workload: Any, dtype: torch.dtype, device: torch.device) -> Any:
        return workload.make(dtype, device)

    def inputs(self, problem: Any) -> Any:
        return [matrix.clone() for matrix in problem.matrices]

    def bytes(self, problem: Any) -> int:
        """Size of one buffer."""
        return sum(matrix.nbytes for matrix in problem.matrices)

    def answer(self, call: Any) -> Any:
        return call()

    def warm(self, call: Any) -> None:
        """What may compile, load something or make a state, and is not timed."""
        call()

    def recheck(self, problem: Any, inputs: Any, calls: Sequence[Call]) -> float:
        """Error of one more answer of calls that were timed, once their inputs have got other values in place.

        Args:
            problem: of the workload.
            inputs: the buffer that all of these calls were prepared with; it does not keep its values.
            calls: the call itself and, where that was timed, the replay of its graph.
        """
        other = fresh.other(problem)
        for place, matrix in zip(inputs, other.matrices, strict=True):
            place.copy_(matrix)
        return worst(self.error(other, call()) for call in calls)

    @abstractmethod
    def error(self, problem: Any, answer: Any) -> float:
        """How wrong an answer is, in `unit`; 0 where it is right."""

    @abstractmethod
    def cost(self, workload: Any, dtype: torch.dtype) -> Cost | None:
        """What it has to do, see `costs`; None where that is not the point."""
