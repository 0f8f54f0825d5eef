"""One trial: training with the rank of every matrix tracked, resumable to the bit after any kill."""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fastrank.experiments.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastrank.experiments.config import Trial
from fastrank.experiments.data import DATASETS, Split, load_split
from fastrank.experiments.events import EpochEnd, Finished, Report, Warned
from fastrank.experiments.layout import Layout
from fastrank.experiments.ledger import Status
from fastrank.experiments.models import build
from torch import Tensor
from torch.nn.functional import cross_entropy

import fastrank

SPECTRUM = ("effective_rank", "nuclear_norm", "participation_ratio", "singular_values")


class Seeds(NamedTuple):
    """Independent seeds of one trial, so that changing one use of randomness cannot shift another."""

    initialisation: int
    data_order: int


def derive_seeds(seed: int) -> Seeds:
    """One 63-bit word from each child of ``numpy.random.SeedSequence(seed)``, in the order of `Seeds`."""
    children = np.random.SeedSequence(seed).spawn(len(Seeds._fields))
    return Seeds(*(int(child.generate_state(1, np.uint64)[0] >> 1) for child in children))


def run_trial(spec: dict[str, Any], folder: Path, report: Report) -> Finished:
    """Run one trial to its end, from its checkpoint where there is one.

    Args:
        spec: a trial's canonical specification, `Trial.spec`.
        folder: the sweep's folder; history and checkpoint go where `Layout` says.
        report: is told of each epoch, and of what went wrong without stopping the training.

    The parameters and the history are the same, bit for bit, as of a trial that was never interrupted: PyTorch
    runs on one thread here, since the order of floating-point sums depends on their number. The history is
    complete on disk on return; the checkpoint is the caller's to remove once the result is safe.
    A non-finite training loss ends the trial as ``diverged``.
    """
    trial = Trial.model_validate(spec)
    with _one_thread():
        training = _resume(trial, Layout(folder), report)
        try:
            return training.run(report)
        finally:
            training.tracker.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _resume(trial: Trial, layout: Layout, report: Report) -> "Training":
    """The trial as its checkpoint left it; from zero where there is none or it cannot be used."""
    path = layout.checkpoint(trial.id)
    if path.exists():
        training = Training(trial, layout)
        try:
            training.load_state_dict(load_checkpoint(path))
        except CheckpointError as error:
            report(Warned(f"{error}. Trial {trial.id} starts over"))
            training.tracker.close()
        else:
            return training
    layout.forget(trial.id)
    return Training(trial, layout)


class Training:
    """A trial's state: network, optimizer, schedule, tracker, data order and how far they have come."""

    def __init__(self, trial: Trial, layout: Layout) -> None:
        self.trial = trial
        self.checkpoint = layout.checkpoint(trial.id)
        seeds, data = derive_seeds(trial.seed), DATASETS[trial.data.name]
        self.train, self.test = load_split(trial.data.name, trial.data.test_fraction, trial.data.seed)
        self.model = build(
            trial.model.name,
            features=data.features,
            classes=data.classes,
            depth=trial.model.depth,
            width=trial.model.width,
            seed=seeds.initialisation,
        )
        self.optimizer = fastrank.SGD(
            self.model.parameters(), lr=trial.lr, momentum=trial.momentum, weight_decay=trial.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, trial.milestones, trial.gamma)
        self.tracker = _tracker(trial, self.model, self.optimizer, layout.history(trial.id))
        self.order = torch.Generator().manual_seed(seeds.data_order)
        self.epoch = 0
        self.step = 0
        self.seconds = 0.0

    def run(self, report: Report) -> Finished:
        """Train to the end, with a checkpoint after each epoch."""
        accuracy = None
        while self.epoch < self.trial.epochs:
            if not self._run_epoch():
                return self._finished(Status.DIVERGED, test_accuracy=accuracy)
            accuracy = self._accuracy(self.test)
            try:
                save_checkpoint(self.checkpoint, self.state_dict())
            except OSError as error:  # the training is worth more than the checkpoint
                report(Warned(f"{self.checkpoint}: cannot be written: {error.strerror}. Training goes on"))
            report(EpochEnd(self.epoch, self._average_rank(), accuracy))
        status = Status.DIVERGED if self._average_rank() is None else Status.DONE
        return self._finished(status, test_accuracy=self._accuracy(self.test))

    def _run_epoch(self) -> bool:
        """One pass over the training part; False as soon as the loss is not finite.

        The last, incomplete batch is dropped: all steps of a trial have the batch size it is named after.
        """
        started = time.perf_counter()
        self.model.train()
        steps, size = self.trial.steps_per_epoch, self.trial.batch_size
        order = torch.randperm(len(self.train.y), generator=self.order)
        batches = order[: steps * size].view(steps, size)
        for x, y in zip(self.train.x[batches], self.train.y[batches], strict=True):
            self.optimizer.zero_grad()
            loss = cross_entropy(self.model(x), y)
            if not math.isfinite(loss.item()):
                self.seconds += time.perf_counter() - started
                return False
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.step += 1
        self.schedule.step()
        self.epoch += 1
        self.seconds += time.perf_counter() - started
        return True

    def _finished(self, status: Status, test_accuracy: float | None) -> Finished:
        self.tracker.flush()
        done = status is Status.DONE
        result = {
            "steps": self.step,
            "average_rank": self._average_rank() if done else None,
            "full_rank": self.tracker.full_rank,
            "train_accuracy": self._accuracy(self.train) if done else None,
            "test_accuracy": test_accuracy,
            "digest": self._digest(),
        }
        return Finished(status, result, self.seconds)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "tracker": self.tracker.state_dict(),
            "order": self.order.get_state(),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` was taken. Raises CheckpointError where the state does not fit."""
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.tracker.load_state_dict(state["tracker"])
            self.order.set_state(state["order"])
            self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.checkpoint}: the checkpoint does not fit: {error}") from error

    def _average_rank(self) -> float | None:
        """Mean over the matrices, at the first tolerance; the middle of the bounds where they differ."""
        rows = list(self.tracker.latest().values())
        if any(row["rank_lower"] is None for row in rows):
            return None
        total: int = sum(row["rank_lower"] + row["rank_upper"] for row in rows)
        return total / (2 * len(rows))

    @torch.no_grad()
    def _accuracy(self, split: Split) -> float:
        self.model.eval()
        correct: Tensor = self.model(split.x).argmax(dim=1) == split.y
        return correct.float().mean().item()

    def _digest(self) -> str:
        """SHA-256 of parameters and buffers: equal for two runs exactly when they ended in the same bits."""
        sha = hashlib.sha256()
        for value in self.model.state_dict().values():
            sha.update(value.contiguous().numpy().tobytes())
        return sha.hexdigest()


def _tracker(
    trial: Trial, model: torch.nn.Module, optimizer: torch.optim.Optimizer, directory: Path
) -> fastrank.RankTracker:
    epochs = trial.tracking.spectrum_every_epochs
    return fastrank.RankTracker(
        model,
        optimizer,
        tolerance=[fastrank.Tolerance(t.value, t.relative_to) for t in trial.tracking.tolerances],
        every=trial.tracking.every,
        select=trial.tracking.select,
        spectrum=SPECTRUM if epochs else (),
        spectrum_every=max(epochs, 1) * trial.steps_per_epoch,
        directory=directory,
    )
