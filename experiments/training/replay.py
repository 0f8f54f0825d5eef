"""A training step that is run many times: as usual, or on a GPU as a CUDA graph, captured once and replayed."""

from collections.abc import Callable

import torch

import fastrank

WARM_UP = 3  # steps run as usual before the capture: gradients, momentum and workspaces are made


def _over() -> None:
    raise RuntimeError("this training is over")


class Replay:
    """Every call runs ``step`` once, and ``tracker`` has counted it, whether it was run as usual or replayed.

    Args:
        step: one training step. To be captured it must run on the device alone: it reads and writes the same tensors
            each time, and never waits for the host.
        tracker: follows the step's optimizer and records its ranks.
        device: where the step runs.
        capture: True: the first `WARM_UP` steps run as usual, then a graph of one step is captured and replayed.
            False: all steps run as usual.
    """

    def __init__(
        self, step: Callable[[], None], tracker: fastrank.RankTracker, device: torch.device, capture: bool
    ) -> None:
        self._step, self._tracker = step, tracker
        self._stream = torch.cuda.Stream(device) if capture else None  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = 0

    @property
    def captured(self) -> bool:
        """Whether the step is a graph by now."""
        return self._graph is not None

    def close(self) -> None:
        """Let go of the graph's memory, and of the step, which as a method of this object's owner keeps that alive."""
        self._step, self._graph = _over, None

    def __call__(self) -> None:
        if self._stream is None:
            self._step()
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            if self._warm < WARM_UP:
                self._step()
                self._warm += 1
            else:
                if self._graph is None:
                    self._graph = self._capture()
                self._graph.replay()
                self._tracker.replayed()
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._step()  # captured, not run: no step is counted here
        return graph
