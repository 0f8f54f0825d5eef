"""A small sweep that has been run, and what its driver has said of it."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastrank.experiments.records.ledger import Ledger
from fastrank.experiments.sinks.sink import open_sinks
from fastrank.experiments.training.events import Event, Finished
from fastrank.experiments.training.job import Job, run
from fastrank.experiments.trial import Data, Perceptron, Tracking, Trial

SHARED: dict[str, Any] = {
    **{"epochs": 3, "model": Perceptron(name="mlp_bn", depth=2, width=16), "tracking": Tracking()},
    **{"data": Data(name="digits"), "lr": 0.5, "weight_decay": 0.01, "momentum": 0.0, "seed": 0},
}
META = {"config": {"name": "small"}, "data": {"classes": 10}, "commit": None, "versions": {}}


@dataclass(frozen=True)
class Trained:
    """`told`: the events of each trial, by id: three epochs, then the end."""

    folder: Path
    trials: list[Trial]
    told: dict[str, list[Any]]

    def ledger(self, folder: Path, **meta: Any) -> Ledger:
        """A new ledger of the same trials, all pending."""
        return Ledger.create(folder, META | meta, {trial.id: trial.spec for trial in self.trials})

    def finish(self, ledger: Ledger, trial: Trial) -> None:
        """The result of a trial, as the driver would enter it."""
        event = self.told[trial.id][-1]
        ledger.start([trial.id])
        ledger.finish(trial.id, event.status, event.result, event.seconds)


@pytest.fixture(scope="session")
def small_sweep(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trained once, in a folder that no test writes to."""
    folder = tmp_path_factory.mktemp("small")
    trials = [Trial(batch_size=size, **SHARED) for size in (128, 256)]
    told = {trial.id: list(run(Job(trial.id, {trial.id: trial.spec}), folder, "cpu")) for trial in trials}
    assert all(isinstance(events[-1], Finished) for events in told.values())
    trained = Trained(folder, trials, told)
    ledger = trained.ledger(folder)
    for trial in trials:
        trained.finish(ledger, trial)
    return trained


@pytest.fixture
def trained(small_sweep: Trained, tmp_path: Path) -> Trained:
    """The same in a folder of the test's own."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    for path in small_sweep.folder.iterdir():
        (folder / path.name).symlink_to(path)
    return Trained(folder, small_sweep.trials, small_sweep.told)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture
def printed(console: Console) -> Callable[[], str]:
    """What stands on the console."""

    def text() -> str:
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    return text


@pytest.fixture
def session(trained: Trained, console: Console) -> Callable[[str, Mapping[str, Sequence[Event]]], None]:
    """`session(name, told)`: a sink from its opening to its end, the events of several trials by turns."""

    def tell(name: str, told: Mapping[str, Sequence[Event]]) -> None:
        trials = {trial.id: trial for trial in trained.trials}
        with open_sinks([name], trained.folder, console) as (sink,):
            for number in range(max(map(len, told.values()))):
                for trial, events in told.items():
                    for event in events[number : number + 1]:
                        sink.record(trials[trial], event)

    return tell
