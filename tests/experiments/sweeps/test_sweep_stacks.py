"""The driver and stacks, with stand-ins for training: how they are made, split, and never lose what is finished."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastrank.experiments.records.layout import Layout
from fastrank.experiments.records.ledger import Ledger, Status
from fastrank.experiments.sweeps import sweep
from fastrank.experiments.sweeps.sweep import Options

CONFIG: dict[str, Any] = {
    "name": "fake",
    "epochs": 2,
    "model": {"name": "mlp_bn", "depth": 5, "width": 100},
    "data": {"name": "digits"},
    "grid": {"batch_size": [8], "lr": [0.5], "weight_decay": [0.01]},
}


@pytest.fixture(autouse=True)
def _workers_find_the_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run_sweep(config: Path, out: Path, workers: int = 1, function: str = "quick", stack: int | None = None) -> int:
    return sweep.run_sweep(config, out, Options(workers=workers, function=f"fake_trials:{function}", stack=stack))


STACKABLE = "grid = {batch_size = [8], lr = [0.5], weight_decay = [0.01], seed = [0, 1, 2, 3, 4, 5, 6, 7]}"


def test_perceptrons_of_one_batch_size_are_stacked(config_file: Callable[..., Path], out: Path) -> None:
    config = config_file({**CONFIG, "grid": {}}, STACKABLE)
    assert run_sweep(config, out, 2) == 0
    records = Ledger.open(out).trials()
    stacks = [record.stack for record in records]
    assert {stacks.count(stack) for stack in stacks} == {4}  # one for each worker
    assert {(record.status, record.attempts) for record in records} == {(Status.DONE, 1)}
    assert list((out / "checkpoints").iterdir()) == []


def test_stacks_can_be_forbidden(config_file: Callable[..., Path], out: Path) -> None:
    config = config_file({**CONFIG, "grid": {}}, STACKABLE)
    assert run_sweep(config, out, 2, stack=1) == 0
    assert {record.stack for record in Ledger.open(out).trials()} == {None}


def test_a_stack_without_memory_is_split_and_goes_on(
    config_file: Callable[..., Path], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file({**CONFIG, "grid": {}}, STACKABLE)
    assert run_sweep(config, out, 1, "hungry") == 0
    records = Ledger.open(out).trials()
    stacks = [record.stack for record in records]
    assert {stacks.count(stack) for stack in stacks} == {2}  # 8 and 4 were too many
    assert {(record.status, record.attempts) for record in records} == {(Status.DONE, 1)}
    assert "8 trials, is split in two and starts over: MemoryError" in " ".join(capsys.readouterr().out.split())


def test_one_bad_trial_of_a_stack_fails_alone(config_file: Callable[..., Path], out: Path) -> None:
    config = config_file({**CONFIG, "grid": {}}, STACKABLE)
    assert run_sweep(config, out, 2, "poisoned") == 1
    outcome = {(r.spec["seed"], r.spec["lr"]): r.status for r in Ledger.open(out).trials()}
    assert {key for key, status in outcome.items() if status is Status.FAILED} == {(5, 0.5)}
    assert set(outcome.values()) == {Status.FAILED, Status.DONE}


def test_what_is_killed_again_and_again_fails_in_the_end(config_file: Callable[..., Path], out: Path) -> None:
    assert run_sweep(config_file(CONFIG, "grid.batch_size = [64]"), out, 1, "doomed") == 1
    assert {record.status for record in Ledger.open(out).trials()} == {Status.FAILED}


def test_a_full_disk_splits_no_stack_and_loses_no_checkpoint(
    config_file: Callable[..., Path], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file({**CONFIG, "grid": {}}, STACKABLE)
    assert run_sweep(config, out, 1, "on_a_full_disk") == 1
    records = Ledger.open(out).trials()
    assert {record.status for record in records} == {Status.FAILED}
    (stack,) = {record.stack for record in records}
    assert [path.stem for path in (out / "checkpoints").iterdir()] == [stack]
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{Layout(out).history(str(stack))}: No space left on device: check free space" in shown.replace("/ ", "/")
    assert "Traceback" not in shown
    assert run_sweep(config, out, 1) == 0  # there is room again
    assert {record.stack for record in Ledger.open(out).trials()} == {stack}


def test_a_worker_with_other_data_splits_no_stack_and_loses_no_checkpoint(
    config_file: Callable[..., Path], out: Path
) -> None:
    config = config_file({**CONFIG, "grid": {}}, STACKABLE)
    assert run_sweep(config, out, 1, "foreign") == 1
    records = Ledger.open(out).trials()
    assert {record.error for record in records} == {"the data set 'digits' here is not the sweep's"}
    (stack,) = {record.stack for record in records}
    assert [path.stem for path in (out / "checkpoints").iterdir()] == [stack]
    assert run_sweep(config, out, 1, "informed") == 0  # workers are told which data it is about


def test_what_is_finished_of_a_stack_is_not_trained_again(
    config_file: Callable[..., Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver was killed between two results of a stack, and then there is no memory for it any more."""
    config = config_file({**CONFIG, "grid": {}}, STACKABLE)
    assert run_sweep(config, out, 1, "on_a_full_disk") == 1
    ledger = Ledger.open(out)
    done = ledger.trials()[0]
    ledger.reopen_failed()
    ledger.start([done.id], done.stack)
    ledger.finish(done.id, Status.DONE, {"average_rank": 1.0, "test_accuracy": 0.5, "full_rank": 2.0, "mark": 1}, 1.0)
    assert run_sweep(config, out, 1, "hungry") == 0
    records = ledger.trials()
    assert {record.status for record in records} == {Status.DONE}
    assert (records[0].result or {})["mark"] == 1
    assert len({record.stack for record in records[1:]}) > 1
