"""RankCallback for Hugging Face's `Trainer`: `pip install 'fastrank[transformers]'`.

trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[fastrank.transformers.RankCallback()])
"""

from __future__ import annotations

import base64
import io
import sys
import zlib
from collections.abc import Mapping
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

try:
    from transformers.trainer_callback import (
        CallbackHandler,
        ExportableState,
        TrainerCallback,
        TrainerControl,
        TrainerState,
    )
    from transformers.training_args import TrainingArguments
except ImportError as error:
    raise ImportError(f"fastrank.transformers: {error}; pip install 'fastrank[transformers]'") from error

from .schedules import Rule
from .tracking import RankTracker, TrackedTraining

__all__ = ["RankCallback"]


class RankCallback(TrainerCallback, ExportableState):  # type: ignore[misc]  # mypy does not read transformers
    """Records the rank of every weight matrix while Hugging Face's `Trainer` trains, and logs the most telling numbers.

    Its tracker is made when `train` begins, with the model and the optimizer as the trainer then has them, and is
    closed when it ends. `Trainer` tells nobody of an error. The rows are then on disk within `flush_every` seconds, or
    as soon as the program ends, the next `train` into this folder begins, or you call `callback.tracker.close()`.

    Where weights are sharded over several processes, by FSDP or a tensor parallel plan, or with `share=True`, all of
    them measure together, and an alert that says so stops all of them after the same step. (FSDP of version 1 needs
    `use_orig_params`.) Of processes that have the same weights only the first one tracks otherwise, and cannot stop the
    others. In both cases it is the first one that keeps the history, logs and looks at alerts.

    Its state is in `trainer_state.json` of the trainer's checkpoints: a `train(resume_from_checkpoint=...)` goes on
    with the history, without a gap or a double row. Without `directory` all rows are in that file, which gets large.

    Args:
        log_every: steps from one whose scalars are logged to the next, or a rule of `fastrank.schedules` (default None:
            they join the trainer's own logs). They go wherever the trainer reports to, and into its `log_history`, at
            the trainer's own step.
        per_matrix: log the numbers of each matrix as well (default False).
        tracker_arguments: those of `RankTracker`, such as `every`, `tolerance`, `directory`.

    Raises:
        TypeError: an argument that `RankTracker` does not have, or that the trainer gives. ValueError: `log_every`.
    """

    def __new__(cls, **arguments: Any) -> RankCallback:
        # With `restore_callback_states_from_checkpoint=True` a trainer makes new callbacks of what a checkpoint holds,
        # `type(callback)(**state["args"])`, and puts them in the place of those that it was given. Each of these has a
        # type of its own that gives the callback itself back: with its arguments, and known to whoever made it.
        itself: RankCallback = super().__new__(type(cls.__name__, (cls,), {"__new__": lambda own, **restored: itself}))
        return itself

    def __init__(
        self, *, log_every: int | Rule | None = None, per_matrix: bool = False, **tracker_arguments: Any
    ) -> None:
        if not hasattr(self, "_training"):  # else it was restored
            self._training = TrackedTraining(tracker_arguments, log_every, per_matrix)
            self._handler: CallbackHandler | None = None

    @property
    def tracker(self) -> RankTracker | None:
        """The tracker of the `train` that is under way, or was last; None before, and where another process tracks."""
        return self._training.tracker

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        **kwargs: Any,
    ) -> None:
        """Make the tracker: everything is restored and in its place, and no step is taken yet."""
        # A checkpoint of a run without this callback leaves no place for its state, and the trainer looks for one.
        saved = state.stateful_callbacks.setdefault(type(self).__name__, {})
        if isinstance(saved, list):
            raise ValueError("callbacks: one RankCallback only, which may have several tolerances; there are more")
        self._handler = _calling_handler()
        if self._handler is not None and self in self._handler.callbacks:
            # Before those that report to loggers, so that these find in `logs` what `on_log` writes into it.
            self._handler.callbacks.remove(self)
            self._handler.callbacks.insert(0, self)
        packed = saved.get("tracker") if state.global_step > 0 else None
        unpacked = _unpack(packed) if packed else None
        self._training.begin(model, optimizer, state.global_step, unpacked, first=state.is_world_process_zero)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Log apart from the trainer, if there is a `log_every`, and this step is due; stop, if an alert says so."""
        if self._training.should_stop(args.world_size):
            control.should_training_stop = True
        due, handler = self._training.log_every, self._handler
        if due is not None and due(state.global_step) and (values := self._training.scalars()):
            logs = {**values, "epoch": state.epoch}
            state.log_history.append({**logs, "step": state.global_step})
            if handler is not None:
                should_log = control.should_log
                control = handler.on_log(args, state, control, logs)
                control.should_log = should_log  # `on_log` of a handler means that the trainer has logged
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Have the scalars join the trainer's logs of a training step."""
        if self._training.log_every is None and logs is not None and "loss" in logs:
            values = self._training.scalars()
            logs.update(values)
            if state.log_history and state.log_history[-1].get("step") == state.global_step:
                state.log_history[-1].update(values)  # the trainer keeps a copy

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the tracker."""
        self._training.end()

    def state(self) -> dict[str, Any]:
        """The tracker's state, for `trainer_state.json`."""
        state = self._training.state()
        own = {} if state is None else {"tracker": _pack(state)}
        return {"args": {}, "attributes": {}, **own}


def _calling_handler() -> CallbackHandler | None:
    """The handler that calls this callback, which is not told whose it is; None where somebody else calls it."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if isinstance(caller := frame.f_locals.get("self"), CallbackHandler):
            return caller
        frame = frame.f_back
    return None


def _pack(state: Mapping[str, Any]) -> str:
    """A tracker's state as text, because the trainer's state is JSON."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    return base64.b64encode(zlib.compress(file.getvalue(), 1)).decode()


def _unpack(packed: str) -> dict[str, Any]:
    """The state that `_pack` was given."""
    file = io.BytesIO(zlib.decompress(base64.b64decode(packed)))
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state
