"""Readings: what can be read from a tracker while it records, in whatever form a reader wants."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import check_count
from ..history import History, check_installed, on_host, step_rows, write_history
from ..measuring import Measurer
from ..plotting import Standing, plot, summary_html, summary_text
from ..sharing import Role, SharedMeasurer
from ..weights import CoverageTable, TrackedMatrices
from .hooks import StepHooks
from .scalars import CAP, scalars_of
from .standing import standing_of
from .steps import Steps
from .watch import Watch

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

    from ..plotting import Kind


class Readings:
    """The part of `RankTracker` that reads: nothing here changes what is recorded."""

    _weights: TrackedMatrices
    _matrices: TrackedMatrices | SharedMeasurer
    _shared: SharedMeasurer | None
    _role: Role
    _history: History
    _hooks: StepHooks
    _steps: Steps
    _device: torch.device
    _measurer: Measurer | SharedMeasurer
    _watch: Watch
    _model: str
    _deaf: bool
    """Whether there are alerts that ask for a stop, which only another process sees."""

    @property
    def names(self) -> list[str]:
        """Name of each tracked matrix, in the order of the model. Where processes measure together, of all of them."""
        return list(self._matrices.names)

    @property
    def full_rank(self) -> float:
        """Mean over the matrices, as they are now, of min(rows, cols): the largest average rank that there can be."""
        shapes = self._shared.shapes if self._shared is not None else [s.shape for s in self._weights.sources()]
        sides = [min(shape) for shape in shapes]
        return sum(sides) / len(sides)

    @property
    def should_stop(self) -> bool:
        """Whether an alert has asked for the training to be stopped. Processes that measure together hear of it after
        the same step, at the next one that is measured.

        Raises:
            RuntimeError: another process measures, and tells this one nothing.
        """
        if self._deaf:
            raise RuntimeError(
                "should_stop: rank 0 of a DistributedDataParallel measures alone, and only there is it known; make the "
                "RankTracker of every rank with share=True, and all of them hear of it after the same step"
            )
        return self._watch.should_stop if self._shared is None else self._shared.together.should_stop

    def memory(self) -> dict[str, int]:
        """Bytes on the device: `"history"`, the most that rows which wait there take; `"workspace"`, what the kernels
        work in: Grams and factors, at most `fastrank.counting.ragged.BUDGET` unless one matrix takes more, bases, and
        copies. On a CPU: Grams, at most `counting.compiled.GRAMS_AT_ONCE` unless one takes more, and for each thread
        the factors of the largest matrix; while it measures, copies of matrices in half precision or FP64 as well."""
        return {"history": self._history.nbytes, "workspace": self._measurer.nbytes}

    def coverage(self) -> CoverageTable:
        """A row for every weight of the model: as which matrices it is tracked, or why it is not. `print` it."""
        return self._weights.coverage

    def latest(self) -> dict[str, dict[str, Any]]:
        """The last row of each matrix, `{name: {column: value}}`; empty before the first. Waits for the device.

        A number that a matrix does not have is None: for loggers, which cannot take that, there is `scalars`.
        """
        self._hooks.warn_if_idle(recorded=self._steps.begun)
        last = self._history.last()
        return step_rows(self._history.layout, last) if last is not None else {}

    def scalars(self, *, per_matrix: bool = False, cap: int = CAP) -> dict[str, float]:
        """The last step as a flat dict of numbers, for any logger: there is no None and no NaN in it.

        Waits for the device. Empty where nothing was measured since the last call, so that no number is logged twice.

        Args:
            per_matrix: every metric of each matrix as well, `rank/NAME`, `stable_rank/NAME` and so on (default False).
            cap: how many matrices, the first ones of `names`, have numbers of their own then (default 64).

        Returns:
            `rank/mean` and `rank/lowest`, mean and lowest over the weights of rank as a share of full rank (over all
            matrices, where no weights are tracked); `rank/below_half`, how many of these are below half of it;
            `stable_rank/mean`; `rank/nonfinite`, how many matrices of all hold NaN or Inf and have no rank. With
            `per_matrix` a `rank/NAME` is that matrix's share of full rank, and `rank/left_out` says how many matrices
            are beyond the cap.
        """
        check_count(cap, "cap", 0)
        self._hooks.warn_if_idle(recorded=self._steps.begun)
        last = self._history.last()
        step = int(last.steps[0]) if last is not None else -1
        if last is None or step <= self._steps.read:
            return {}
        self._steps.read = step
        values = last.values[0].numpy()
        return scalars_of(values, last.shapes, self._history.layout, per_matrix=per_matrix, cap=cap)

    def to_arrow(self) -> pa.Table:
        """The whole history as a `pyarrow.Table`: a row for each (step, matrix)."""
        self._hooks.warn_if_idle(recorded=self._steps.begun)
        return self._history.to_arrow()

    def to_pandas(self) -> pd.DataFrame:
        """The whole history as a `pandas.DataFrame`; missing numbers are `<NA>` or NaN."""
        check_installed("to_pandas", "pandas")
        return self.to_arrow().to_pandas()  # type: ignore[no-any-return, unused-ignore]

    def write_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the whole history to one file, at once: after an `OSError` the path is as it was before."""
        write_history(self.to_arrow(), path)

    def plot(self, *, names: Sequence[str] | None = None, kind: Kind | None = None) -> Figure:
        """Draw the history as `fastrank.plot` does: matrices x steps, average rank, and spectra where there are any."""
        self._hooks.warn_if_idle(recorded=self._steps.begun)
        return plot(self, names=names, kind=kind)

    def __repr__(self) -> str:
        """What is tracked, since when, and how it stands, as far as the host knows."""
        if self._role is Role.IDLE:
            count = "1 matrix" if len(self.names) == 1 else f"{len(self.names)} matrices"
            return f"RankTracker: {count} of {self._model}, which another process measures"
        return summary_text(self._standing())

    def _repr_html_(self) -> str:
        """The same for a notebook, with a table of the matrices."""
        return summary_html(self._standing())

    def _standing(self) -> Standing:
        if on_host(self._device):
            self._history.hurry()
        shapes = self._matrices.shapes
        return standing_of(self._history, shapes, self._steps.first, self._steps.rule, self._model)
