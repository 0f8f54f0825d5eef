"""A training step that is run again and again: as it is on a CPU, as a CUDA graph on a GPU."""

from collections.abc import Callable

import torch

import fastrank

WARM_UP = 3  # steps run as usual: gradients, momentum and workspaces are made


def _over() -> None:
    raise RuntimeError("this training is over")


class Replay:
    """Calling it runs ``step`` once, and ``tracker``, which follows the optimizer, has counted it.

    Args:
        step: runs on the device alone: it reads and writes the same tensors each time, and never waits.
        tracker: records the step's ranks.
        device: of the step.
        capture: the first steps run as usual, and then a graph of one is replayed; False: all run as usual.
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
        """Let go of the step and of the graph's memory: the step is a method of what holds this."""
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
