"""Sinks are told what the driver tells, one after the other, and never stop a sweep."""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastrank.experiments.records.ledger import MAX_ATTEMPTS, Ledger
from fastrank.experiments.sinks import sink
from fastrank.experiments.sinks.sink import TITLES, SinkError, open_sinks
from fastrank.experiments.sinks.tracker import Outcome, Tracker, epoch_values, full_rank, read_sweep, settings
from fastrank.experiments.sweeps.sweep import Options, run_sweep
from fastrank.experiments.training.events import Crashed, EpochEnd
from fastrank.experiments.trial import Fixed, Tracking, Trial
from fastrank.sinks import background

FLAT = {"model": "mlp_bn", "depth": 2, "width": 16, "data": "digits", "batch_size": 128, "lr": 0.5}
FLAT |= {"weight_decay": 0.01, "momentum": 0.0, "seed": 0, "epochs": 3}


class Notes:
    """A tracker that writes down what it is told."""

    def __init__(self, fails: bool = False, waits_for: threading.Event | None = None) -> None:
        self.told: list[Any] = []
        self.closed, self.fails, self.waits_for = False, fails, waits_for

    def epoch(self, trial: Trial, epoch: int, values: Mapping[str, float]) -> None:
        if self.fails:
            raise ConnectionError("no route\nto the host")
        if self.waits_for:
            assert self.waits_for.wait(30)
        self.told.append((trial.id, epoch, dict(values)))

    def end(self, trial: Trial, outcome: Outcome) -> None:
        self.told.append((trial.id, outcome))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, console: Console) -> Callable[..., Any]:
    """`opened(folder, *trackers)`: sinks that tell these trackers."""

    def make(folder: Path, *trackers: Tracker) -> Any:
        by_name = dict(zip(TITLES, trackers, strict=False))
        monkeypatch.setattr(sink, "_maker", lambda name: lambda sweep, say: by_name[name])
        return open_sinks(list(by_name), folder, console)

    return make


@pytest.fixture
def tell(trained: Any, opened: Callable[..., Any]) -> Callable[..., None]:
    """`tell(*trackers)`: all that happened to the first trial."""

    def call(*trackers: Tracker) -> None:
        with opened(trained.folder, *trackers) as found:
            for event in trained.told[trained.trials[0].id]:
                for sink in found:
                    sink.record(trained.trials[0], event)

    return call


def test_an_unknown_name_is_an_error_that_says_which_there_are(trained: Any, console: Console) -> None:
    with (
        pytest.raises(SinkError, match=r"--log comet: expected one of tensorboard, wandb, mlflow"),
        open_sinks(["comet"], trained.folder, console),
    ):
        pass


@pytest.mark.parametrize("name", TITLES)
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    trained: Any, console: Console, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in [m for m in sys.modules if f"{m}.".startswith((f"{name}.", "torch.utils.tensorboard."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, f"fastrank.experiments.sinks.{name}", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with (
        pytest.raises(SinkError, match=rf"--log {name}: needs {name}, .*: pip install 'fastrank\[{name}\]'"),
        open_sinks([name], trained.folder, console),
    ):
        pass


def test_no_names_no_sinks(tmp_path: Path, console: Console) -> None:
    with open_sinks([], tmp_path, console) as found:  # not even a ledger is read
        assert found == []


def test_what_a_tracker_is_told(trained: Any, tell: Callable[..., None]) -> None:
    notes, trial = Notes(), trained.trials[0]
    tell(notes)
    first, *_, finished = trained.told[trial.id]
    *epochs, (_, outcome) = notes.told
    assert [entry[:2] for entry in epochs] == [(trial.id, 1), (trial.id, 2), (trial.id, 3)]
    assert epochs[0][2] == {
        "rank/average": first.average_rank,
        "rank/share_of_full": first.average_rank / finished.result["full_rank"],
        "accuracy/test": first.test_accuracy,
        "loss/train": first.train_loss,
    }
    assert outcome.values == {"accuracy/train": finished.result["train_accuracy"], "seconds": finished.seconds}
    assert (outcome.status, outcome.epoch, outcome.heat_map[:4]) == ("done", 3, b"\x89PNG")
    assert notes.closed


def test_settings_have_no_hierarchy(trained: Any) -> None:
    trial = trained.trials[0]
    assert settings(trial) == FLAT
    bare = settings(trial.model_copy(update={"model": Fixed(name="resnet18")}))
    assert bare == {key: value for key, value in FLAT.items() if key not in ("depth", "width")} | {"model": "resnet18"}


def test_the_full_rank_is_known_before_any_trial_is_done(trained: Any) -> None:
    trial = trained.trials[0]
    assert full_rank(trial) == trained.told[trial.id][-1].result["full_rank"] == 16
    everything = trial.model_copy(update={"tracking": Tracking(select="all")})
    assert full_rank(everything) == (16 + 16 + 10) / 3  # with the head, 10 x 16


def test_what_is_not_a_number_is_not_a_point() -> None:
    assert epoch_values(EpochEnd("x", 1, None, 0.5, 1.0), 16) == {"accuracy/test": 0.5, "loss/train": 1.0}
    assert epoch_values(EpochEnd("x", 1, 9.0, 0.1, float("nan")), 16) == {}  # diverged, and still in its stack


def test_an_error_is_said_once_and_costs_that_sink_only(tell: Callable[..., None], printed: Callable[[], str]) -> None:
    broken, sound = Notes(fails=True), Notes()
    tell(broken, sound)
    assert printed() == (
        "TensorBoard is left out from now on: ConnectionError: no route. Nothing is lost: the ledger has every number\n"
    )
    assert (broken.told, len(sound.told), sound.closed) == ([], 4, True)


def test_a_tracker_that_cannot_be_opened_is_left_out(
    trained: Any, console: Console, printed: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def maker(name: str) -> Callable[..., Tracker]:
        raise RuntimeError("its licence has run out")

    monkeypatch.setattr(sink, "_maker", maker)
    with open_sinks(["mlflow"], trained.folder, console) as found:
        assert found == []
    assert printed() == "MLflow is left out: RuntimeError: its licence has run out\n"


def test_a_slow_tracker_holds_nobody_up_and_is_waited_for(trained: Any, opened: Callable[..., Any]) -> None:
    gate = threading.Event()
    notes = Notes(waits_for=gate)
    with opened(trained.folder, notes) as (sink,):
        for event in trained.told[trained.trials[0].id]:
            sink.record(trained.trials[0], event)
        assert notes.told == []  # all is recorded, and nothing told
        threading.Timer(0.3, gate.set).start()
    assert (len(notes.told), notes.closed) == (4, True)


def test_a_tracker_that_hangs_is_given_up(
    tell: Callable[..., None], printed: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "PATIENCE", 0.2)
    gate = threading.Event()
    started = time.monotonic()
    tell(Notes(waits_for=gate))
    assert time.monotonic() - started < 20  # it would have waited for 30
    assert "TensorBoard does not answer and is given up. Nothing is lost" in printed()
    gate.set()


def test_a_crash_ends_a_trial_only_when_it_has_failed(trained: Any, tmp_path: Path, opened: Callable[..., Any]) -> None:
    ledger, trial = trained.ledger(tmp_path), trained.trials[0]
    for attempt in range(1, MAX_ATTEMPTS + 1):
        notes = Notes()
        ledger.start([trial.id])
        ledger.crash([trial.id], "cursed")
        with opened(tmp_path, notes) as (sink,):
            sink.record(trial, Crashed("cursed"))
        assert notes.told == ([(trial.id, Outcome("failed"))] if attempt == MAX_ATTEMPTS else [])


def test_two_sweeps_of_one_configuration_have_runs_of_their_own(trained: Any, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        trained.ledger(folder, created=folder.name)
    one, two = map(read_sweep, folders)
    assert one.name == two.name == "small"
    assert one.key != two.key == read_sweep(folders[1]).key


def test_a_sweep_with_a_sink(
    config_file: Callable[..., Path], tmp_path: Path, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, out = Notes(), tmp_path / "out"
    opened(out, notes)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    content = {"name": "fake", "epochs": 2, "model": {"name": "mlp_bn", "depth": 5, "width": 100}}
    content |= {"data": {"name": "digits"}, "grid": {"batch_size": [64], "lr": [0.5], "weight_decay": [0.01]}}
    options = Options(workers=1, function="fake_trials:quick", sinks=["tensorboard"])
    assert run_sweep(config_file(content), out, options) == 0
    (record,) = Ledger.open(out).trials()
    (name, epoch, values), (_, outcome) = notes.told
    assert (name, epoch, values["rank/average"]) == (record.id, 1, 90.0)
    assert (outcome.status, outcome.values["accuracy/train"], outcome.heat_map) == ("done", 1.0, None)
    assert notes.closed
