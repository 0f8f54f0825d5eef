"""One trial: training with the rank of every matrix tracked, resumable to the bit after any kill."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import fastrank
from fastrank import backend

from ..data import Feed
from ..records import Layout
from ..trial import Trial
from .build import SPECTRUM, build_network, derive_seeds, feeds, patches_of, tolerances
from .checkpoint import keep_checkpoint
from .events import EpochEnd, Event, Finished
from .outcome import finish, middle_rank
from .replay import Replay

CHUNK = 1000  # examples that are evaluated together
LOOK_EVERY = 64  # steps after which the host looks whether the loss is still finite


class Training:
    """A trial's state: network, optimizer, schedule, tracker, data order and how far they have come.

    On CUDA a step, ranks included, is one CUDA graph, provided that ranks are recorded at every step and no whole
    spectra are, which a graph cannot hold.
    """

    def __init__(self, trial: Trial, layout: Layout, device: torch.device) -> None:
        self.trial, self.layout, self.device = trial, layout, device
        self.train, self.test = feeds(trial, device)
        self.model = build_network(trial.model, trial.data, derive_seeds(trial.seed).initialisation, device)
        self.optimizer = fastrank.SGD(
            self.model.parameters(),
            lr=trial.lr,
            momentum=trial.momentum,
            weight_decay=trial.weight_decay,
            fused=True,  # changes nothing once `diverged` is set, and the host need not know
        )
        self.diverged = torch.zeros((), device=device)
        self.optimizer.found_inf = self.diverged  # type: ignore[attr-defined]  # as GradScaler does
        tracking = trial.tracking
        captured = device.type == "cuda" and backend.kernels_serve(device)
        captured = captured and tracking.every == 1 and not tracking.spectrum_every_epochs
        if captured:
            fastrank.prepare(self.model, self.optimizer)
        self.tracker = _tracker(trial, self.model, self.optimizer, layout)
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        self.epoch, self.seconds = 0, 0.0
        self.accuracies: list[float] = []
        # A graph reads and writes the same tensors each time: the learning rate, a batch (`held`), and its loss.
        self.lr = torch.full((), trial.lr, device=device) if captured else None
        self.held: tuple[Tensor, ...] = ()
        self.loss = torch.zeros((), device=device)
        self.replay = Replay(self._step, self.tracker, device, captured)
        if captured:
            self._set_lr(trial.lr)

    def run(self) -> Iterator[Event]:
        """Train to the end, with a checkpoint after each epoch."""
        path = self.layout.checkpoint(self.trial.id)
        while self.epoch < self.trial.epochs:
            loss = self._run_epoch()
            if loss is None:
                yield self._finished(diverged=True)
                return
            self.accuracies.append(self.accuracy(self.test))
            yield from keep_checkpoint(path, self.state_dict())
            yield EpochEnd(self.trial.id, self.epoch, self._average_rank(), self.accuracies[-1], loss)
        yield self._finished(diverged=False)

    def _run_epoch(self) -> float | None:
        """One pass over the training part. Returns its mean loss, or None as soon as a loss is seen not to be finite.

        The last, incomplete batch is dropped: all steps of a trial have the batch size it is named after.
        """
        started = time.perf_counter()
        self.model.train()
        self._set_lr(self.trial.lr * self.trial.factor(self.epoch))
        total = torch.zeros((), device=self.device)
        for i, indices in enumerate(self.train.order(self.trial.batch_size)):
            total += self.take_step(indices)
            if i % LOOK_EVERY == 0 and self.diverged.item():
                break
        finite = not self.diverged.item()
        self.epoch += finite
        self.seconds += time.perf_counter() - started
        return total.item() / self.trial.steps_per_epoch if finite else None

    def take_step(self, indices: Tensor) -> Tensor:
        """Take one step on a batch; return its loss. After a loss that is not finite nothing is stepped or recorded."""
        batch = self.train.batch(indices)
        self.held = self.held or batch
        for held, new in zip(self.held, batch, strict=True):
            held.copy_(new)
        self.replay()
        return self.loss

    def _step(self) -> None:
        x, y = self.held
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(x), y)
        torch.maximum(self.diverged, 1 - loss.detach().isfinite().to(torch.float32), out=self.diverged)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.steps += 1 - self.diverged.to(torch.int64)
        self.loss.copy_(loss.detach())

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr if self.lr is None else self.lr.fill_(lr)

    def _finished(self, diverged: bool) -> Finished:
        self.tracker.flush()
        return finish(
            self.trial,
            self.model.state_dict(),
            average_rank=self._average_rank(),
            train_accuracy=None if diverged else self.accuracy(self.train),
            test_accuracies=self.accuracies,
            steps=int(self.steps),
            seconds=self.seconds,
            full_rank=self.tracker.full_rank,
            patches=patches_of(self.trial, self.tracker.names),
            device=self.device,
            diverged=diverged,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "tracker": self.tracker.state_dict(),
            "train": self.train.state_dict(),
            "steps": int(self.steps),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "accuracies": self.accuracies,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.tracker.load_state_dict(state["tracker"])  # which refuses that of another network before anything changes
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.train.load_state_dict(state["train"])
        self.steps.fill_(state["steps"])
        self.epoch, self.seconds, self.accuracies = state["epoch"], state["seconds"], state["accuracies"]

    def practise(self, steps: int) -> None:
        """Take steps whose only purpose is to be timed."""
        self.model.train()
        while steps > 0:
            order = self.train.order(self.trial.batch_size)[:steps]
            for indices in order:
                self.take_step(indices)
            steps -= len(order)

    def evaluate(self) -> None:
        """Find the test accuracy, only to be timed."""
        self.accuracy(self.test)

    def take_spectrum(self) -> None:
        """Record whole spectra, only to be timed."""
        tracking = self.trial.tracking
        if tracking.spectrum_every_epochs:
            fastrank.RankTracker(
                self.model, tolerance=tolerances(tracking), select=tracking.select, spectrum=SPECTRUM
            ).step()

    def close(self) -> None:
        """Stop following the optimizer, and write what is recorded."""
        self.replay.close()
        self.tracker.close()

    def _average_rank(self) -> float | None:
        return middle_rank(list(self.tracker.latest().values()))

    @torch.no_grad()
    def accuracy(self, feed: Feed) -> float:
        """Share of a part's examples that the network, as it is now, gets right."""
        self.model.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for x, y in feed.all(CHUNK):
            right += (self.model(x).argmax(dim=1) == y).sum()
        return right.item() / len(feed)


def _tracker(
    trial: Trial, model: torch.nn.Module, optimizer: torch.optim.Optimizer, layout: Layout
) -> fastrank.RankTracker:
    epochs = trial.tracking.spectrum_every_epochs
    return fastrank.RankTracker(
        model,
        optimizer,
        tolerance=tolerances(trial.tracking),
        every=trial.tracking.every,
        select=trial.tracking.select,
        spectrum=SPECTRUM if epochs else (),
        spectrum_every=max(epochs, 1) * trial.steps_per_epoch,
        directory=layout.history(trial.id),
    )
