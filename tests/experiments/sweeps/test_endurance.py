"""A sweep whose workers and driver are killed at random: every trial done exactly once, no history with a gap or a
double row. ``make endurance`` does it with 500 trials, this with as many as FASTRANK_TRIALS says (default 16)."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastrank
from fastrank.experiments.records.layout import Layout
from fastrank.experiments.records.ledger import Ledger, Status
from fastrank.experiments.training.job import Job, run
from fastrank.experiments.trial import Trial

TRIALS = int(os.environ.get("FASTRANK_TRIALS", "16"))
LEAST_KILLS = 4
CONFIG: dict[str, Any] = {
    "name": "endurance",
    "epochs": 4,
    "model": {"name": "mlp_bn", "depth": 2, "width": 12},
    "data": {"name": "digits", "train_examples": 500},
    "grid": {"batch_size": [20, 50], "lr": [0.5], "weight_decay": [0.01], "seed": list(range(TRIALS // 2))},
    "tracking": {"spectrum_every_epochs": 2},
}


class Sweep:
    """A driver in a process of its own, which is started again whenever it was killed."""

    def __init__(self, config: Path, out: Path, stack: int) -> None:
        self.command = [sys.executable, "-P", "-m", "fastrank.experiments.cli", "sweep", str(config), "--out", str(out)]
        self.command += ["--workers", "2", "--stack", str(stack)]
        self.start()

    def start(self) -> None:
        self.driver = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def workers(self) -> list[int]:
        task = Path(f"/proc/{self.driver.pid}/task/{self.driver.pid}/children")
        return [int(pid) for pid in task.read_text().split()] if task.exists() else []

    def kill_driver(self) -> None:
        self.driver.kill()
        self.driver.communicate()
        self.start()

    def finish(self) -> int:
        _, error = self.driver.communicate()
        assert not error, error.decode()
        return self.driver.returncode


def disturbed(sweep: Sweep, chance: random.Random) -> int:
    """Kill now a worker, now the driver, until the sweep is over or `LEAST_KILLS` and a fair share are done."""
    kills = 0
    while sweep.driver.poll() is None:
        time.sleep(chance.uniform(0.5, 3.0))
        workers = sweep.workers()
        if chance.random() < 0.25:
            sweep.kill_driver()
            kills += 1
        elif workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            kills += 1
        if kills >= max(LEAST_KILLS, TRIALS // 10):
            break
    return kills


@pytest.mark.parametrize("stack", [1, 5])
def test_random_kills_lose_and_double_nothing(config_file: Callable[..., Path], tmp_path: Path, stack: int) -> None:
    out, chance = tmp_path / "out", random.Random(stack)
    sweep = Sweep(config_file(CONFIG), out, stack)
    kills = disturbed(sweep, chance)
    assert sweep.finish() == 0
    assert kills >= LEAST_KILLS

    records = Ledger.open(out).trials()
    assert len({record.id for record in records}) == TRIALS
    assert {record.status for record in records} == {Status.DONE}
    assert len((out / "summary.csv").read_text().splitlines()) == TRIALS + 1
    assert {path.name for path in (out / "history").iterdir()} == {record.id for record in records}
    left = [path.name for path in (out / "checkpoints").iterdir()]
    assert [name for name in left if not name.endswith(".tmp")] == []  # but what was half written by the killed
    for record in records:
        trial = Trial.model_validate(record.spec)
        assert record.result is not None
        assert record.result["steps"] == trial.steps
        history = fastrank.read_history(Layout(out).history(record.id))
        assert history["step"].to_pylist() == [step for step in range(1, trial.steps + 1) for _ in range(2)]
        assert history["name"].to_pylist() == ["layers.0.weight", "layers.1.weight"] * trial.steps

    for record in chance.sample(records, 3):  # killed or not, the same bits; a stack that stayed whole included
        members = (
            {r.id: r.spec for r in records if r.stack == record.stack} if record.stack else {record.id: record.spec}
        )
        job = Job(record.stack or record.id, members)
        (again,) = [
            e for e in run(job, tmp_path / "again", "cpu") if getattr(e, "result", None) and e.trial == record.id
        ]
        assert again.result == record.result
        ours, theirs = (fastrank.read_history(Layout(f).history(record.id)) for f in (out, tmp_path / "again"))
        assert ours.equals(theirs)
