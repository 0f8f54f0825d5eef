"""The driver, with stand-ins for training: what it does when trials end, crash, die, or when it is ended itself."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastrank.experiments.errors import UserError
from fastrank.experiments.records.layout import Layout
from fastrank.experiments.records.ledger import Ledger, Status, TrialRecord
from fastrank.experiments.sweeps import driver, sweep
from fastrank.experiments.sweeps.config import ConfigError
from fastrank.experiments.sweeps.summary import COLUMNS
from fastrank.experiments.sweeps.sweep import Options, driver_of

HERE = Path(__file__).parents[1]
CONFIG = {
    "name": "fake",
    "epochs": 2,
    "model": {"name": "mlp_bn", "depth": 5, "width": 100},
    "data": {"name": "digits"},
    "grid": {"batch_size": [64, 16, 8, 32], "lr": [0.5], "weight_decay": [0.01]},
}
DRIVER = "import sys; from pathlib import Path; from fastrank.experiments.sweeps.sweep import Options, run_sweep; "
DRIVER += "options = Options(workers=2, function='fake_trials:' + sys.argv[3]); "
DRIVER += "sys.exit(run_sweep(Path(sys.argv[1]), Path(sys.argv[2]), options))"


def run_sweep(config: Path, out: Path, workers: int = 1, function: str = "quick") -> int:
    return sweep.run_sweep(config, out, Options(workers=workers, function=f"fake_trials:{function}"))


@pytest.fixture(autouse=True)
def _workers_find_the_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture
def config(config_file: Callable[..., Path]) -> Path:
    return config_file(CONFIG)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for a condition and return its value; waiting too long is a failure."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def by_batch_size(out: Path) -> dict[int, TrialRecord]:
    return {record.spec["batch_size"]: record for record in Ledger.open(out).trials()}


def test_all_done_and_again_at_once(
    config: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_sweep(config, out, 2, "quick") == 0
    records = Ledger.open(out).trials()
    assert {record.status for record in records} == {Status.DONE}
    assert (out / "config.toml").read_bytes() == config.read_bytes()
    assert list((out / "checkpoints").iterdir()) == []
    output = capsys.readouterr().out
    assert "4/4 trials, 100 % of the steps" in output
    assert "Average rank (full: 92.8)" in output

    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["trial"] for row in rows] == [record.id for record in records]
    assert [row["batch_size"] for row in rows] == ["64", "16", "8", "32"]
    assert rows[0] == {
        **{"trial": records[0].id, "model": "mlp_bn-5x100", "data": "digits", "batch_size": "64", "lr": "0.5"},
        **{"weight_decay": "0.01", "momentum": "0.0", "seed": "0", "epochs": "2", "steps": "44"},
        **{"average_rank": "50.5", "full_rank": "92.8", "train_accuracy": "1.0", "test_accuracy": "0.975"},
        **{"seconds": "1.5", "status": "done"},
    }

    monkeypatch.delattr(sweep, "LocalEngine")  # nothing is left to run
    assert run_sweep(config, out, 2, "quick") == 0
    output = capsys.readouterr().out
    assert "All 4 trials are done" in output
    assert "Average rank (full: 92.8)" in output


def test_trials_that_crash_are_tried_once_more_and_the_others_finish(
    config: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep(config, out, 2, "eventful") == 1
    record = by_batch_size(out)
    assert {size: (r.status, r.attempts) for size, r in record.items()} == {
        8: (Status.DIVERGED, 1),
        16: (Status.DONE, 1),  # killed from outside: not its fault
        32: (Status.FAILED, 2),
        64: (Status.FAILED, 2),
    }
    assert record[16].error is None
    assert (record[8].result or {})["average_rank"] is None
    assert "Traceback" in str(record[32].error)
    assert "ValueError: batch size 32 is cursed" in str(record[32].error)
    assert str(record[64].error).endswith("was killed by SIGSEGV")
    assert [path.stem for path in (out / "checkpoints").iterdir()] == [record[32].id]  # for when it is asked again
    assert "in eventful" in str(record[64].error)  # the worker's own account of where it was
    output = capsys.readouterr().out
    assert output.count("about to die") == 1
    assert re.search(f"trial {record[16].id} goes on elsewhere: .* was killed by SIGKILL", output)
    assert output.count("a part of the history was not written") == 1
    assert f"2 of 4 trials failed: {record[64].id}, {record[32].id}" in output
    assert "batch size 32 is cursed" in output

    assert run_sweep(config, out, 2, "quick") == 0  # asked again, failed trials run again
    assert {size: r.status for size, r in by_batch_size(out).items()} == {
        **{8: Status.DIVERGED, 16: Status.DONE, 32: Status.DONE, 64: Status.DONE}
    }


@pytest.fixture
def running(config: Path, out: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A driver in a process of its own with two endless trials, and the process ids of its workers."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", DRIVER, str(config), str(out), "endless"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as driver:
        pids = until(lambda: len(found := [p.read_text() for p in out.glob("*.pid")]) == 2 and all(found) and found)
        yield driver, [int(pid) for pid in pids]
        driver.kill()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"  # dead, and nobody there to bury it


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_a_clean_ledger_and_says_how_to_resume(
    running: tuple[subprocess.Popen[str], list[int]], config: Path, out: Path, number: int
) -> None:
    driver, workers = running
    assert driver_of(out) == driver.pid
    with pytest.raises(UserError, match=f"another sweep is at work here .pid {driver.pid}"):
        run_sweep(config, out)
    driver.send_signal(number)
    output, _ = driver.communicate(timeout=30)
    assert driver.returncode == 130, output
    assert f"Interrupted with 4 of 4 trials to go. Resume with: fastrank sweep {config} --out {out}" in output
    assert "Traceback" not in output
    assert all(map(gone, workers))
    assert {(r.status, r.attempts) for r in by_batch_size(out).values()} == {(Status.PENDING, 0)}
    assert driver_of(out) is None


def test_a_killed_driver_takes_its_workers_along_and_the_next_one_resumes(
    running: tuple[subprocess.Popen[str], list[int]], config: Path, out: Path
) -> None:
    driver, workers = running
    driver.kill()
    driver.wait()
    until(lambda: all(map(gone, workers)), seconds=10)
    sizes = by_batch_size(out)
    assert {size for size, record in sizes.items() if record.status is Status.RUNNING} == {8, 16}  # longest first
    assert run_sweep(config, out, 2, "quick") == 0
    assert {(r.status, r.attempts) for r in by_batch_size(out).values()} == {(Status.DONE, 1)}


def test_a_changed_config_is_refused_with_the_difference(
    config: Path, config_file: Callable[..., Path], out: Path
) -> None:
    assert run_sweep(config, out, 1, "quick") == 0
    config_file(CONFIG, "epochs = 3", "grid.lr = [0.5, 0.1]")
    with pytest.raises(ConfigError) as caught:
        run_sweep(config, out)
    assert caught.value.problems[1:] == ["  epochs: 2 -> 3", "  grid.lr: [0.5] -> [0.5, 0.1]"]
    assert str(out) in caught.value.problems[0]
    assert len(Ledger.open(out).trials()) == 4


def test_a_summary_that_cannot_be_written_stops_no_trial(
    config: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, records: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(sweep, "write_summary", refuse)
    monkeypatch.setattr(driver, "write_summary", refuse)
    with pytest.raises(OSError, match="No space left"):  # from the last try, when all trials are over
        run_sweep(config, out, 2, "quick")
    assert {record.status for record in Ledger.open(out).trials()} == {Status.DONE}
    assert capsys.readouterr().out.count(f"{Layout(out).summary}: No space left on device") == 1
