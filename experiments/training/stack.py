"""A stack of trials trained as one program: perceptrons that share everything but lr, weight decay and seed.

Each trial has its own initial parameters, data order, learning rate and weight decay, and is recorded as if it trained
alone. Its numbers differ from those of a trial alone by rounding only: the same sums are taken in another order. On
CUDA a step, ranks included, is one CUDA graph.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import fastrank
from fastrank import backend

from ..data import Feed, load_split
from ..records import Layout
from ..trial import Trial
from .build import SPECTRUM, build_network, derive_seeds, patches_of, tolerances
from .checkpoint import keep_checkpoint
from .events import EpochEnd, Event, Finished
from .outcome import finish, middle_rank
from .replay import Replay
from .stack_history import split_history
from .stacked_mlp import StackedMLP
from .train import CHUNK

ROWS_PER_PART = 1 << 18


class StackTraining:
    """The state of a stack: networks, optimizer, trackers, data orders and how far they have come."""

    def __init__(self, name: str, trials: list[Trial], layout: Layout, device: torch.device) -> None:
        self.name, self.trials, self.layout, self.device = name, trials, layout, device
        self.shared, seeds = trials[0], [derive_seeds(trial.seed) for trial in trials]
        train, test = load_split(self.shared.data.name, **self.shared.data.part)
        info = self.shared.data.info
        self.train, self.test = Feed(train, info, device, seed=0), Feed(test, info, device, seed=0)
        self.orders = [torch.Generator(device).manual_seed(s.data_order) for s in seeds]
        members = [build_network(self.shared.model, self.shared.data, s.initialisation) for s in seeds]
        self.model = StackedMLP(members).to(device)  # type: ignore[arg-type]
        self.lr = torch.tensor([trial.lr for trial in trials], device=device)
        self.optimizer = fastrank.SGD(
            self.model.parameters(),
            lr=self.lr.clone(),
            momentum=self.shared.momentum,
            weight_decay=torch.tensor([trial.weight_decay for trial in trials], device=device),
        )
        self._make_trackers()
        models, steps = len(trials), self.shared.steps_per_epoch
        self.order = torch.zeros(steps, models, self.shared.batch_size, dtype=torch.int64, device=device)
        self.cursor = torch.zeros((), dtype=torch.int64, device=device)  # the step of the epoch that comes next
        self.step = torch.zeros((), dtype=torch.int64, device=device)  # steps taken
        self.diverged = torch.zeros(models, dtype=torch.int64, device=device)  # step of the first loss not finite, or 0
        self.losses = torch.zeros(models, device=device)  # sums over the epoch
        self.replay = Replay(self._take_step, self.ranks, device, capture=self._captured)
        self.epoch, self.seconds = 0, 0.0
        self.accuracies: list[list[float]] = []
        self._practised = 0

    def _make_trackers(self) -> None:
        tracking, folder = self.shared.tracking, self.layout.history(self.name)
        # Without kernels the host factors the Grams, and what waits for the host cannot be captured in a graph.
        self._captured = self.device.type == "cuda" and backend.kernels_serve(self.device)
        if self._captured:
            fastrank.prepare(self.model, self.optimizer)
        include = ["layers.*.weight", *(["head.weight"] if tracking.select == "all" else [])]
        own: dict[str, Any] = {"tolerance": tolerances(tracking), "include": include}
        self.ranks = fastrank.RankTracker(
            self.model,
            self.optimizer,
            every=1 if self._captured else tracking.every,  # a graph measures whenever it is replayed
            directory=folder / "ranks",
            rows_per_part=ROWS_PER_PART,
            **own,
        )
        self.spectra = None
        if tracking.spectrum_every_epochs:
            self.spectra = fastrank.RankTracker(self.model, spectrum=SPECTRUM, directory=folder / "spectra", **own)

    def run(self) -> Iterator[Event]:
        """Train to the end, with a checkpoint after each epoch. All trials end together, also those that diverge."""
        path, epochs = self.layout.checkpoint(self.name), self.shared.epochs
        while self.epoch < epochs and not bool((self.diverged > 0).all()):
            losses = self._run_epoch()
            self.accuracies.append(self._accuracy(self.test))
            if self.spectra is not None and self.epoch % self.shared.tracking.spectrum_every_epochs == 0:
                self.spectra.step()
            yield from keep_checkpoint(path, self.state_dict())
            known = zip(self.trials, self._average_ranks(), self.accuracies[-1], losses, strict=True)
            diverged = self.diverged.tolist()
            for i, (trial, rank, accuracy, loss) in enumerate(known):
                if not diverged[i]:
                    yield EpochEnd(trial.id, self.epoch, rank, accuracy, loss)
        yield from self._finished()

    def _run_epoch(self) -> list[float]:
        """One pass over the training part, each model in its own order. Returns the mean loss of each."""
        started = time.perf_counter()
        self._begin_epoch()
        for i in range(self.shared.steps_per_epoch):
            self.replay()
            if i == self.epoch == 0 and self.spectra is not None and self._period > 1:
                self.spectra.step()  # as a tracker with spectra of its own does
        self.epoch += 1
        means: list[float] = (self.losses / self.shared.steps_per_epoch).tolist()
        self.seconds += time.perf_counter() - started
        return means

    def _begin_epoch(self) -> None:
        self.model.train()
        for group in self.optimizer.param_groups:
            torch.mul(self.lr, self.shared.factor(self.epoch), out=group["lr"])
        for i, generator in enumerate(self.orders):
            self.order[:, i] = self.train.order(self.shared.batch_size, generator)
        self.cursor.zero_()
        self.losses.zero_()

    def _take_step(self) -> None:
        """One step of every model. Runs nothing on the host that a CUDA graph could not replay."""
        indices = self.order.index_select(0, self.cursor.view(1))[0]
        x, y = self.train.batch(indices.flatten())
        self.optimizer.zero_grad()
        logits = self.model(x.view(*indices.shape, *x.shape[1:]))
        losses = cross_entropy(logits.flatten(0, 1), y, reduction="none").view(indices.shape).mean(1)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.cursor += 1
        self.step += 1
        losses = losses.detach()
        self.losses += losses
        first = ~losses.isfinite() & (self.diverged == 0)
        self.diverged.copy_(torch.where(first, self.step, self.diverged))

    def _finished(self) -> Iterator[Finished]:
        self.ranks.flush()
        steps, diverged = int(self.step), self.diverged.tolist()
        # Trained alone, a trial ends before the step whose loss is not finite.
        taken = [at - 1 if at else steps for at in diverged]
        spectral = sorted({1, *range(self._period, steps + 1, self._period)})
        if self.spectra is not None:
            self.spectra.flush()
        folder, ids = self.layout.history(self.name), [trial.id for trial in self.trials]
        split_history(
            folder / "ranks",
            None if self.spectra is None else folder / "spectra",
            spectral,
            self.shared.tracking.every,
            dict(zip(ids, taken, strict=True)),
            self.layout,
        )
        ranks, trained = self._average_ranks(), self._accuracy(self.train)
        names = [name.rpartition("[")[0] for name in self.ranks.names if name.endswith("[0]")]
        patches = patches_of(self.shared, names)
        for i, trial in enumerate(self.trials):
            epochs = taken[i] // self.shared.steps_per_epoch
            yield finish(
                trial,
                self.model.member(i),
                average_rank=ranks[i],
                train_accuracy=trained[i],
                test_accuracies=[epoch[i] for epoch in self.accuracies[:epochs]],
                steps=taken[i],
                seconds=self.seconds / len(self.trials),
                full_rank=self.ranks.full_rank,
                patches=patches,
                device=self.device,
                stacked=len(self.trials),
                diverged=bool(diverged[i]),
            )

    @property
    def _period(self) -> int:
        """Steps from one spectrum to the next, or of an epoch where no spectra are recorded."""
        return max(self.shared.tracking.spectrum_every_epochs, 1) * self.shared.steps_per_epoch

    def _average_ranks(self) -> list[float | None]:
        """Average rank of each trial at the last step that either tracker recorded; None where it is not finite."""
        rows: list[list[dict[str, Any]]] = [[] for _ in self.trials]
        latest = self.ranks.latest()
        recorded = max((row["step"] for row in latest.values()), default=0)
        if self.spectra is not None and int(self.step) // self._period * self._period >= recorded:
            latest = self.spectra.latest()
        for name, row in latest.items():
            rows[int(name.rpartition("[")[2][:-1])].append(row)
        return [middle_rank(own) for own in rows]

    @torch.no_grad()
    def _accuracy(self, feed: Feed) -> list[float]:
        self.model.eval()
        right = torch.zeros(len(self.trials), dtype=torch.int64, device=self.device)
        for x, y in feed.all(max(1, CHUNK * 16 // len(self.trials))):
            right += (self.model(x[None]).argmax(dim=2) == y).sum(1)
        shares: list[float] = (right.double() / len(feed)).tolist()
        return shares

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on."""
        return {
            "trials": [trial.id for trial in self.trials],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ranks": self.ranks.state_dict(),
            "spectra": None if self.spectra is None else self.spectra.state_dict(),
            "orders": [generator.get_state() for generator in self.orders],
            "step": int(self.step),
            "diverged": self.diverged.tolist(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "accuracies": self.accuracies,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned. Raises ValueError where that is of other trials."""
        if state["trials"] != [trial.id for trial in self.trials]:
            raise ValueError("it is of other trials")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # their tensors come as they were saved, on the host
            group.update({key: group[key].to(self.device) for key in ("lr", "weight_decay")})
        self.ranks.load_state_dict(state["ranks"])
        if self.spectra is not None:
            self.spectra.load_state_dict(state["spectra"])
        for generator, own in zip(self.orders, state["orders"], strict=True):
            generator.set_state(own)
        self.step.fill_(state["step"])
        self.diverged.copy_(torch.tensor(state["diverged"]))
        self.epoch, self.seconds, self.accuracies = state["epoch"], state["seconds"], state["accuracies"]

    def practise(self, steps: int) -> None:
        """Take steps whose only purpose is to be timed."""
        for _ in range(steps):
            if self._practised % len(self.order) == 0:
                self._begin_epoch()
            self.replay()
            self._practised += 1

    def evaluate(self) -> None:
        """Find the test accuracies, only to be timed."""
        self._accuracy(self.test)

    def take_spectrum(self) -> None:
        """Record whole spectra, only to be timed."""
        if self.spectra is not None:
            self.spectra.step()

    def close(self) -> None:
        """Stop following the optimizer, and write what is recorded."""
        self.replay.close()
        self.ranks.close()
        if self.spectra is not None:
            self.spectra.close()
