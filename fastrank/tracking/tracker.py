"""RankTracker: follows an optimizer's steps; `Measurer` measures those that are due, and `History` records the rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..arguments import check_count
from ..device import capturing
from ..history import SKIPPED, History, Layout, write_history
from ..metrics import Tolerance
from .ahead import check_training, compile_ahead
from .hooks import StepHooks
from .matricize import CoverageTable, Select, find_parameters
from .measurer import Measurer
from .row import check_spectrum, check_tolerances, columns
from .source import Source

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

STATE_VERSION = 2


class RankTracker:
    """Records the numerical rank of every weight matrix as a model trains. Training itself is not changed by a bit.

    Args:
        model: its parameters with two or more dimensions are tracked; see `include`, `exclude`, `types`, `select`.
        optimizer: its steps are followed (default None: call `tracker.step()` after each step).
        tolerance: one `Tolerance` or several (default 1e-3 of the Frobenius norm). The first one's bounds are the
            columns `rank_lower` and `rank_upper`, a further one's `rank_lower@0.04` and so on.
        every: measure at step 1 and at each multiple of this (default 1: every step).
        include: globs; only parameters whose names match one are tracked (default: all).
        exclude: globs; parameters whose names match one are not tracked (default: none).
        types: module types; only parameters that modules of these types own are tracked (default: any).
        select: `"all"` (default), or `"paper"`: without the classifier head (the last linear layer) and without 1 x 1
            convolutions, as in arXiv 2206.05794.
        spectrum: metrics of the whole spectrum to record as well, any of `"effective_rank"`, `"nuclear_norm"`,
            `"participation_ratio"` and `"singular_values"` (default: none).
        spectrum_every: record those at step 1 and at each multiple of this (default 1).
        directory: folder where the history is written as Parquet parts while training goes on (default: kept in
            memory). If a part cannot be written there is a warning, it is tried again, and training goes on.
        rows_per_part: rows, one for each (step, matrix), that make a part (default 32768).

    Raises:
        ValueError: nothing to track, or an argument out of range. TypeError: an argument of the wrong type.
        OSError: `directory` cannot be made.

    Names are the model's, without the `module.` and `_orig_mod.` of wrappers. A parameter under several names is
    tracked once, under the first. Parameters may be replaced or moved while they are tracked, as long as each keeps
    its number of matrices.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        tolerance: Tolerance | Sequence[Tolerance] | None = None,
        every: int = 1,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        types: Sequence[type[nn.Module]] | None = None,
        select: Select = "all",
        spectrum: Sequence[str] = (),
        spectrum_every: int = 1,
        directory: str | os.PathLike[str] | None = None,
        rows_per_part: int = 32768,
    ) -> None:
        check_training(model, optimizer)
        self.tolerances = check_tolerances(tolerance)
        self._spectrum = check_spectrum(spectrum)
        self._every = check_count(every, "every", 1)
        self._spectrum_every = check_count(spectrum_every, "spectrum_every", 1)
        chosen = tuple(types) if types is not None else None
        self._parameters, self._coverage = find_parameters(model, include, exclude, chosen, select)
        matrices = [source.matrix for source in self._sources()]
        layout = Layout(
            names=tuple(name for p in self._parameters for name in p.matrices),
            shapes=tuple((m.shape[0], m.shape[1]) for m in matrices),
            columns=tuple(columns(self.tolerances, self._spectrum)),
            singular_values="singular_values" in self._spectrum,
        )
        self._device = matrices[0].device
        self._until_compiled = compile_ahead(matrices, optimizer, self._device)
        folder = Path(directory) if directory is not None else None
        self._history = History(layout, self._device, folder, check_count(rows_per_part, "rows_per_part", 1))
        self._calls = 0  # steps as the host counts them: on CUDA it does not know which were skipped
        self._steps = torch.zeros((), dtype=torch.int64, device=self._device)
        self._measurer = Measurer(self.tolerances, self._spectrum, self._device)
        self._hooks = StepHooks(optimizer, self._measurer, self._announce, self.step)

    @property
    def names(self) -> list[str]:
        """Name of each tracked matrix, in the order of the model."""
        return list(self._history.layout.names)

    @property
    def full_rank(self) -> float:
        """Mean over the matrices of min(rows, cols): the average rank that no training can exceed."""
        sides = [min(shape) for shape in self._history.layout.shapes]
        return sum(sides) / len(sides)

    def memory(self) -> dict[str, int]:
        """Bytes on the device: `"history"`, rows that wait there, and `"workspace"`, what the kernels work in.

        The workspace is there from the first measurement on, 0 before that and on a CPU. Its Grams and factors take at
        most `fastrank.counting.ragged.BUDGET`, unless one matrix alone takes more; bases and copies come on top.
        """
        return {"history": self._history.nbytes, "workspace": self._measurer.nbytes}

    def coverage(self) -> CoverageTable:
        """A row for every parameter of the model: which matrices it is tracked as, or why it is not. `print` it."""
        return self._coverage

    @torch.no_grad()
    def step(self, found_inf: Tensor | None = None) -> None:
        """Count an optimizer step, and measure it if it is due. Called by the optimizer's hook, or by hand.

        A step captured in a CUDA graph counts when `replayed` is called, and is always measured: no replay skips that.

        Args:
            found_inf: 0-d tensor, non-zero where gradients overflowed and no step was taken: nothing is recorded then.

        Raises:
            RuntimeError: a tracked parameter left the model or changed its number of matrices; `spectrum` in a capture.
            HistoryError: `directory` holds another run's parts, or replays were miscounted.
        """
        self._until_compiled()
        captured = capturing(self._device)
        if captured and self._spectrum:
            raise RuntimeError(
                f"spectrum: {', '.join(self._spectrum)} cannot be captured in a CUDA graph; make this tracker without, "
                "and a second one with it and without optimizer, whose step() is called between replays"
            )
        if found_inf is not None and not found_inf.is_cuda and found_inf.item():
            return
        self._calls += not captured
        if found_inf is None or not found_inf.is_cuda:
            self._steps += 1
            number = self._steps
        else:
            # The host does not know whether the step was taken, and does not wait to hear.
            skipped = found_inf.to(self._device, non_blocking=True).reshape(()) != 0
            self._steps += ~skipped
            number = torch.where(skipped, SKIPPED, self._steps)
        measured, due = self._cadence(self._calls, captured)
        if measured:
            self._history.append(number, *self._measurer.measure(self._sources(), due, found_inf))

    def replayed(self, steps: int = 1) -> None:
        """Count the steps a CUDA graph has just replayed. Call it after each `graph.replay()`, on the same stream.

        A replay runs nothing on the host, which still has to fetch rows before new ones overwrite them. Nothing waits.

        Args:
            steps: how many optimizer steps the graph has captured (default 1).

        Raises:
            ValueError: no graph has captured so many. RuntimeError: a graph is being captured.
            HistoryError: there were too few calls, or too many. Whatever reads the history raises it as well; as long
                as no row has been overwritten, making the missing calls puts it right.
        """
        self._history.replayed(check_count(steps, "steps", 1))
        self._calls += steps

    def _cadence(self, call: int, captured: bool) -> tuple[bool, bool]:
        """Whether to measure at this call of `step`, and whether to measure the whole spectrum as well."""
        due = bool(self._spectrum) and (call == 1 or call % self._spectrum_every == 0)
        return captured or call == 1 or due or call % self._every == 0, due

    def _sources(self) -> list[Source]:
        """Every tracked matrix as it is now, with its parameter."""
        return [Source(view, tracked.parameter()) for tracked in self._parameters for view in tracked.views()]

    def _announce(self) -> None:
        """Tells the measurer, before a step of `fastrank.SGD`, whether the step will be measured: it may then fuse."""
        self._until_compiled()
        measured, _ = self._cadence(self._calls + 1, capturing(self._device))
        self._measurer.prepare(self._sources() if measured else None)

    def latest(self) -> dict[str, dict[str, Any]]:
        """The last recorded row of each matrix, `{name: {column: value}}`; empty before the first step.

        Waits for the device.
        """
        last = self._history.last()
        rows = self._history.table([last] if last is not None else []).to_pylist()
        return {row.pop("name"): row for row in rows}

    def to_arrow(self) -> pa.Table:
        """The whole history as a `pyarrow.Table`: a row for each (step, matrix)."""
        return self._history.to_arrow()

    def to_pandas(self) -> pd.DataFrame:
        """The whole history as a `pandas.DataFrame`; missing numbers are `<NA>` or NaN."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def write_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the whole history to one file, at once: after an `OSError` the path is as it was before."""
        write_history(self.to_arrow(), path)

    def state_dict(self) -> dict[str, Any]:
        """All that another process needs to continue: tensors, numbers and strings. Waits for the device."""
        layout = self._history.layout
        return {
            "version": STATE_VERSION,
            "names": list(layout.names),
            "columns": list(layout.columns),
            "calls": self._calls,
            "steps": int(self._steps),
            "bases": {layout.names[i]: basis.cpu() for i, basis in self._measurer.warm_starts().items()},
            "sketches": self._measurer.state(),
            "history": self._history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Rows measured since it was taken are dropped, and parts written since removed.

        Raises:
            ValueError: the state is of another version, or of a tracker of other matrices or columns.
            HistoryError: a part the state counts on is missing.
        """
        layout = self._history.layout
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"state_dict: version {state.get('version')!r}, not {STATE_VERSION}")
        for key, own in (("names", layout.names), ("columns", layout.columns)):
            if tuple(state[key]) != own:
                differing = sorted(set(state[key]) ^ set(own))
                raise ValueError(f"state_dict: {key} differ from this tracker's: {', '.join(differing) or 'order'}")
        self._history.load_state_dict(state["history"])
        self._calls = int(state["calls"])
        self._steps.fill_(state["steps"])
        saved = {i: state["bases"][name] for i, name in enumerate(layout.names) if name in state["bases"]}
        self._measurer.load(self._sources(), state["sketches"], saved)

    def flush(self) -> None:
        """Write rows that are in no part yet to `directory`. Raises `OSError`; the rows are then kept."""
        self._history.flush()

    def close(self) -> None:
        """Stop following the optimizer, and flush."""
        self._hooks.stop()
        self.flush()
