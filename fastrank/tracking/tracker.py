"""RankTracker: follows an optimizer's steps; `Measurer` measures those that are due, and `History` records the rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .. import backend
from ..arguments import check_count, check_seconds
from ..device import capturing
from ..history import History, Layout, StepNumber, on_host
from ..measuring import Measurer, check_spectrum, check_tolerances, columns, home_of
from ..metrics import Tolerance
from ..schedules import Rule
from ..sharing import Role, SharedMeasurer, role_of, share_out, telling
from ..streams import OwnStream
from ..weights import Choice, Select, Track, TrackedMatrices, WeightsOf, refuse_pieces, reshard, type_name, unwrapped
from .ahead import compile_ahead
from .hooks import StepHooks
from .inference import outside_inference
from .keeping import Keeping
from .optimizers import find_optimizers
from .steps import Steps
from .watch import Watch


class RankTracker(Keeping):
    """Records the numerical rank of every weight matrix as a model trains. Training itself is not changed by a bit.

    Args:
        model: its weights with two or more dimensions are tracked; see `include`, `exclude`, `types`, `select`.
        optimizer: its steps are followed, also inside a wrapper such as Accelerate's. Of a list of optimizers, all have
            to step for a row. Default None: call `tracker.step()` after each step.
        tolerance: one `Tolerance` or several (default 1e-3 of the Frobenius norm). The first one's bounds are the
            columns `rank_lower` and `rank_upper`, a further one's `rank_lower@0.04` and so on.
        every: measure at the first step and at each multiple of this (default 1: every step), or where a rule of
            `fastrank.schedules` says so, such as `logarithmic()`.
        include: globs; only weights whose names match one are tracked (default: all).
        exclude: globs; weights whose names match one are not tracked (default: none).
        types: a module type or its name, or several; only weights that such modules use are tracked (default: any).
        select: `"all"` (default), or `"paper"`: without the classifier head (the last linear layer) and without 1 x 1
            convolutions, as in arXiv 2206.05794.
        weights: `"effective"` (default): of parametrized, normed and pruned layers, the weight that the layer uses;
            `"raw"`: the parameters from which it is made.
        split: `{glob: (parts, axis)}` for fused projections: a number of equal parts, their names, or their sizes.
            `{"*c_attn.weight": ("qkv", 1)}` tracks `c_attn.weight[q]`, `c_attn.weight[k]` and `c_attn.weight[v]`.
        spectrum: metrics of the whole spectrum to record as well, any of `"effective_rank"`, `"nuclear_norm"`,
            `"participation_ratio"` and `"singular_values"` (default: none).
        spectrum_every: the same as `every` for those, with a row (default None: in each row that `every` asks for).
        energy: one share of the sum of squared singular values, or several (default: none). At `spectrum_every` the
            column `energy_rank` has how many of them hold the first share, `energy_rank@0.9` and so on further ones.
        of: any of `"weight"` (default), `"gradient"` and `"update"`. `gradient/NAME` is the gradient of a weight as the
            step leaves it, unscaled and clipped. `update/NAME` is what the step has changed or, without an optimizer,
            the change since the last measurement or `load_state_dict`: that takes a copy of the weights. Where there is
            none, the row has status `ABSENT` and no numbers. Frozen weights have neither.
        track: `{name: function}`: matrices that the model has no parameter for. A function is called with the model, in
            evaluation mode, at each step that is measured. It returns a matrix, a stack (`name[0]` ...) or a dictionary
            of them (`name/key`), whatever `include` and so on say; see `fastrank.products` and `fastrank.difference`.
        initial: record the weights as they are now as well, as step 0 (default False).
        first_step: number of the first step (default 1); larger for a model that was trained before.
        directory: folder where the history is written as Parquet parts while training goes on (default: kept in
            memory). If a part cannot be written there is a warning, it is tried again, and training goes on.
        overwrite: at the first step, remove an earlier history from `directory` (default False: that step is then an
            error, unless `load_state_dict` continues the history).
        rows_per_part: rows, one for each (step, matrix), that make a part (default 32768).
        flush_every: seconds after which rows are written at the latest, though the part is not full (default 60).
        log: where to send the numbers of `scalars()` while training goes on, such as `["tensorboard"]`; see
            `fastrank.sinks` (default: nowhere).
        log_every: send them at the first row, and at the first one at or after each multiple of this, or by a rule
            (default 1: all that is measured).
        log_per_matrix: send those of each matrix as well (default False).
        alerts: rules that look at the rows as they arrive, and warn, call a function or ask for the training to be
            stopped, as `should_stop` then says; see `fastrank.alerts` (default: none).
        share: whether the processes of a job measure together. Then all of them make a tracker with the same arguments,
            each matrix is measured by one of them, and the first keeps and writes the history, logs, and looks at
            alerts; see `fastrank.sharing`. True, or a process group of those who do. Default None: where weights are
            sharded; and of a `DistributedDataParallel` rank 0 measures alone, while the others' trackers do nothing.
            Weights of the same name are taken for replicas: it is an error if they differ in shape or numbers.
        timeout: seconds to wait for other processes before one that is missing is an error that names it (default 600).

    Raises:
        ValueError: nothing to track, weights that cannot be read (on the meta device), or an argument out of range or,
            where processes measure together, not the same on all. TypeError: an argument of the wrong type.
        HistoryError: another tracker writes to `directory`. OSError: `directory` cannot be made.
        RuntimeError: one of the processes that measure together makes no tracker; later, if it stops. Or the arithmetic
            of a device is not what proofs assume: `fastrank doctor --probe`.

    A weight is seen as its layer sees it: attention's `in_proj_weight` is three matrices, `[q]`, `[k]` and `[v]`, those
    of an LSTM are its gates, those of a convolution its groups, and other leading axes are stacks: see `coverage()`.

    Names are the model's, without the `module.`, `_orig_mod.` and so on of wrappers. A weight under several names is
    tracked under the first that is chosen. These weights are settled now: modules and parameters may be replaced or
    moved later, as long as each weight keeps its number of matrices; new layers are not tracked. They may be on several
    devices, but for a step that a CUDA graph captures. A frozen weight (`requires_grad=False`) is measured again when
    it was replaced or written in place; on CUDA a write through `.data`, which PyTorch does not count, goes unseen.
    """

    @outside_inference
    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        tolerance: Tolerance | Sequence[Tolerance] | None = None,
        every: int | Rule = 1,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        types: type[nn.Module] | str | Sequence[type[nn.Module] | str] | None = None,
        select: Select = "all",
        weights: WeightsOf = "effective",
        split: Mapping[str, Any] | None = None,
        spectrum: Sequence[str] = (),
        spectrum_every: int | Rule | None = None,
        energy: float | Sequence[float] = (),
        of: Sequence[str] = ("weight",),
        track: Track | None = None,
        initial: bool = False,
        first_step: int = 1,
        directory: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        rows_per_part: int = 32768,
        flush_every: float = 60.0,
        log: Sequence[Any] = (),
        log_every: int | Rule = 1,
        log_per_matrix: bool = False,
        alerts: Sequence[Any] = (),
        share: Any = None,
        timeout: float = 600.0,
    ) -> None:
        with telling(model, share):  # those that would wait for this process in vain
            followed = find_optimizers(optimizer)
            self.tolerances = check_tolerances(tolerance)
            self._spectrum = spectrum = check_spectrum(spectrum, energy)
            choice = Choice(include, exclude, types, select, weights, split if split is not None else {})
            reshard(model)  # whatever has run before: all that is measured is measured between steps
            self._model = type_name(unwrapped(model))
            self._weights = TrackedMatrices(model, choice, track, of, follows=bool(followed))
            sources = self._weights.sources()
            self._device = home_of(sources)
            self._role, wait = role_of(model, sources, share), check_seconds(timeout, "timeout")
        self._until_compiled = compile_ahead(sources if self._role is not Role.IDLE else (), followed, self.tolerances)
        self._stream = OwnStream(self._device)
        measured = (self.tolerances, spectrum, self._device, self._stream)
        self._shared: SharedMeasurer | None = None
        if self._role is Role.TOGETHER:
            agreed: dict[str, Any] = {"tolerance": self.tolerances, "spectrum": spectrum, "of": tuple(of)}
            agreed |= {"every": every, "spectrum_every": spectrum_every, "initial": initial, "first_step": first_step}
            self._shared = share_out(self._weights, sources, share, wait, agreed, *measured)
        self._measurer = self._shared or Measurer(*measured)
        with self._taking_part("to make its tracker"), ExitStack() as undo:
            everything = self._matrices = self._shared or self._weights
            self._keeps = keeps = self._role is Role.ALONE if self._shared is None else self._shared.first
            named = (everything.names, columns(self.tolerances, spectrum), "singular_values" in spectrum)
            layout = Layout(*named, everything.weights)
            self._steps = Steps(every, spectrum_every, self._spectrum, self._device, first_step)
            watched = (log, log_every, log_per_matrix, alerts) if keeps else ((), 1, False, ())
            begin, here = self._steps.calls, on_host(self._device)
            self._watch = Watch(layout, *watched, on_host=here, looked=begin, initial=initial)
            folder = None if directory is None or not keeps else Path(directory)
            rows = check_count(rows_per_part, "rows_per_part", 1)
            parts = (rows, overwrite, check_seconds(flush_every, "flush_every"))
            self._history = History(layout, self._device, folder, *parts, self._stream, keeps)
            undo.callback(self._history.close, write=False)  # after an error nobody else could give its folder back
            self._history.watch(self._watch.wanted)
            self._deaf = self._role is Role.IDLE and any("stop" in getattr(rule, "actions", ()) for rule in alerts)
            if self._role is Role.IDLE:
                followed = ()
            elif initial:
                self._until_compiled()
                self._record(self._steps.zero(), bool(self._spectrum), None, claim=False)
            companion = self._measurer if backend.kernels_serve(self._device) else None
            viewed = self._shared is None and self._weights.are_views(sources)
            calls = (self._announce, self.step, sources, self._weights.sources if viewed else None)
            self._hooks = StepHooks(followed, companion, *calls, always=self._weights.keeps)
            self._history.close_with(self)
            undo.pop_all()

    @outside_inference
    def step(self, found_inf: Tensor | None = None, *, step: int | None = None) -> None:
        """Count an optimizer step, and measure it if it is due. Called by the optimizer's hook, or by hand.

        A step captured in a CUDA graph counts when `replayed` is called, and is always measured: no replay skips that.

        Args:
            found_inf: 0-d tensor, non-zero where gradients overflowed and no step was taken: nothing is recorded then.
            step: the number of this step, larger than the last one's (default None: one more than that).

        Raises:
            RuntimeError: a tracked weight left the model or changed its number of matrices; what no graph can capture.
            HistoryError: `directory` holds another run's parts, or replays were miscounted.
            ValueError: `step` is not larger than the last one's, or given while a CUDA graph is captured.
        """
        if self._role is Role.IDLE:
            return
        self._until_compiled()
        unknown = found_inf if found_inf is not None and self._device.type == found_inf.device.type == "cuda" else None
        if found_inf is not None and unknown is None and found_inf.item():
            return
        with self._taking_part(f"at step {self._steps.calls + 1 if step is None else step}"):
            self._stream.join()  # the last row has its number before that is counted up
            number, due = self._steps.count(unknown, step, capturing(self._device))
            if due.anything:
                self._record(number, due.spectrum, found_inf)
            self._watch.look(self._history, self._steps.calls, recorded=due.anything)
            if self._shared is not None:
                self._shared.together.wants_stop = self._watch.should_stop

    def _record(self, number: StepNumber, due: bool, found_inf: Tensor | None, *, claim: bool = True) -> None:
        """Measures the weights as they are now, and appends a row of this number."""
        sources = self._weights.sources(stepped=claim)
        if self._shared is None:
            refuse_pieces(self._weights.names, sources)
        else:
            self._shared.begin(self._steps.calls)
        values, spectra = self._measurer.measure(sources, due, found_inf)
        with self._stream.current():
            self._history.append(number, values, spectra, self._matrices.shapes, claim=claim)

    def replayed(self, steps: int = 1) -> None:
        """Count the steps a CUDA graph has just replayed. Call it after each `graph.replay()`, on the same stream.

        A replay runs nothing on the host, which has to fetch rows before new ones overwrite them. Nothing waits.

        Args:
            steps: how many optimizer steps the graph has captured (default 1).

        Raises:
            ValueError: no graph has captured so many. RuntimeError: a graph is being captured.
            HistoryError: there were too few calls, or too many; whatever reads the history raises it too. Making the
                missing calls puts it right, unless rows have been overwritten.
        """
        if self._role is Role.IDLE:
            return
        self._history.replayed(check_count(steps, "steps", 1))
        self._steps.replayed(steps)
        self._watch.look(self._history, self._steps.calls, recorded=True)

    @outside_inference
    def _announce(self) -> None:
        """Tells the measurer, before a step of `fastrank.SGD`, whether the step will be measured: it may then fuse."""
        self._until_compiled()
        with self._taking_part(f"before step {self._steps.calls + 1}"):
            due = self._steps.coming(capturing(self._device))
            self._weights.keep(due.anything)
            fuse = due.anything and backend.kernels_serve(self._device)
            self._measurer.prepare(self._weights.sources() if fuse else None)

    def _taking_part(self, what: str) -> AbstractContextManager[None]:
        """In which others are told of what fails, where processes measure together; see `SharedMeasurer`."""
        return nullcontext() if self._shared is None else self._shared.taking_part(what)
