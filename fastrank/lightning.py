"""RankCallback for Lightning's `Trainer`: `pip install 'fastrank[lightning]'`.

trainer = lightning.Trainer(callbacks=[fastrank.lightning.RankCallback(directory="ranks")])
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .schedules import Rule
from .tracking import RankTracker, TrackedTraining

__all__ = ["RankCallback"]

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:

    def _callback_class() -> type:
        """Lightning's `Callback`. There are two packages with a class each, and a trainer knows that of its own.

        What the program has imported before says whose trainer it uses, which may be both; else the newer name counts.
        """
        packages = ("lightning.pytorch", "pytorch_lightning")
        used = [name for name in packages if name in sys.modules]
        installed = [name for name in packages if find_spec(name.partition(".")[0]) is not None]
        if not installed:
            raise ImportError("fastrank.lightning: Lightning is not installed; pip install 'fastrank[lightning]'")
        classes = tuple(import_module(name).Callback for name in used or installed[:1])
        return classes[0] if len(classes) == 1 else type("Callback", classes, {})

    Callback = _callback_class()


class RankCallback(Callback):  # type: ignore[misc]  # mypy does not read Lightning
    """Records the rank of every weight matrix while Lightning's `Trainer` fits, and logs the most telling numbers.

    Its tracker is made when `fit` begins, with the model and the optimizers as the trainer then has them, and is closed
    when it ends, by an error too; `validate`, `test` and `predict` are let be. Of several optimizers all have to step
    for a row.

    Where weights are sharded over several processes, by `ModelParallelStrategy` or by `FSDPStrategy` with
    `use_orig_params=True`, or with `share=True`, all of them measure together, and an alert that says so stops all of
    them after the same step. Of processes that have the same weights only the first one tracks otherwise, and cannot
    stop the others. In both cases it is the first one that keeps the history, logs and looks at alerts.

    Its state is in the trainer's checkpoints: a `fit` that resumes from one goes on with the history, without a gap or
    a double row, and so does a second `fit` of the same trainer. A new trainer begins a new history.

    Args:
        log_every: steps from one whose scalars are sent to the trainer's loggers to the next, or a rule of
            `fastrank.schedules` (default None: the trainer's `log_every_n_steps`). They are logged at the trainer's own
            step, beside the loss of that step.
        per_matrix: log the numbers of each matrix as well (default False).
        tracker_arguments: those of `RankTracker`, such as `every`, `tolerance`, `directory`.

    Raises:
        TypeError: an argument that `RankTracker` does not have, or that the trainer gives. ValueError: `log_every`.
    """

    def __init__(
        self, *, log_every: int | Rule | None = None, per_matrix: bool = False, **tracker_arguments: Any
    ) -> None:
        self._training = TrackedTraining(tracker_arguments, log_every, per_matrix)
        self._loaded: Mapping[str, Any] | None = None  # a checkpoint's, which is read before the tracker is made
        self._trainer: weakref.ref[Trainer] | None = None  # whose steps the tracker has counted
        self._steps = 0  # as the trainer counts

    @property
    def tracker(self) -> RankTracker | None:
        """The tracker of the `fit` that is under way, or was last; None before, and where another process tracks."""
        return self._training.tracker

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the tracker: everything is restored and in its place, and no step is taken yet."""
        state, self._loaded = self._loaded, None
        again = self._trainer is not None and self._trainer() is trainer
        if state is None and again and trainer.ckpt_path is None:
            state = self._training.state()
        self._trainer, self._steps = weakref.ref(trainer), trainer.global_step
        steps = self._steps // len(trainer.optimizers)  # Lightning counts the steps of each optimizer
        first, wrapped = trainer.is_global_zero, trainer.model
        self._training.begin(pl_module, trainer.optimizers, steps, state, first=first, wrapped=wrapped)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, if a step was taken in this batch and is due; and stop, if an alert says so."""
        if self._training.should_stop(trainer.world_size):
            trainer.should_stop = True
        if trainer.global_step == self._steps or not trainer.loggers:
            return
        self._steps = trainer.global_step
        # What Lightning logs a loss at, as its own callbacks do; `global_step` counts each optimizer's steps.
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        own, theirs = self._training.log_every, trainer.log_every_n_steps
        due = own(step + 1) if own is not None else theirs > 0 and ((step + 1) % theirs == 0 or trainer.should_stop)
        if due and (values := self._training.scalars()):
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the tracker."""
        self._training.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the tracker, so that its rows are on disk."""
        self._training.end()

    def state_dict(self) -> dict[str, Any]:
        """The tracker's state, for a checkpoint; empty where there is no tracker."""
        return dict(self._loaded or self._training.state() or {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next tracker go on from a `state_dict`."""
        self._loaded = state_dict
