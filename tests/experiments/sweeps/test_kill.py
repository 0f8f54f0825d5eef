"""SIGKILL at random moments, ten times over, changes neither the parameters nor the history of a trial."""

import multiprocessing
import random
import signal
import time
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import fastrank
from fastrank.experiments.records.layout import Layout
from fastrank.experiments.training.events import EpochEnd, Finished
from fastrank.experiments.training.job import Job
from fastrank.experiments.trial import Trial

KILLS = 10
TRIAL = Trial.model_validate(
    {
        "model": {"name": "mlp_bn", "depth": 2, "width": 16},
        "data": {"name": "digits"},
        **{"batch_size": 128, "lr": 0.5, "weight_decay": 0.01, "momentum": 0.9, "seed": 5},
        **{"epochs": 60, "milestones": [30], "gamma": 0.2},
        "tracking": {"spectrum_every_epochs": 2},
    }
)


class Runner:
    """Runs the trial in processes that fork from one which has imported everything, so that each starts at once."""

    def __init__(self) -> None:
        from fake_trials import telling  # type: ignore[import-not-found]

        self.telling = telling
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            [
                *("fastrank.experiments.training.stack", "pyarrow.parquet"),
                *("sklearn.datasets", "sklearn.model_selection"),
                "torch._dynamo",  # torch.optim imports it when an optimizer is first used
            ]
        )

    def start(self, folder: Path) -> tuple[Any, Connection]:
        ours, theirs = self.context.Pipe()
        job = Job(TRIAL.id, {TRIAL.id: TRIAL.spec})
        process = self.context.Process(target=self.telling, args=(job, folder, theirs))
        process.start()
        theirs.close()
        return process, ours

    def finish(self, folder: Path) -> tuple[Finished, list[float]]:
        """Let it run to its end; also tell when each of the epochs that it took has ended, in seconds."""
        process, pipe = self.start(folder)
        ends = []
        while not isinstance(event := pipe.recv(), Finished):
            if isinstance(event, EpochEnd):
                ends.append(time.monotonic())
        process.join()
        return event, ends


def history(folder: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = fastrank.read_history(Layout(folder).history(TRIAL.id)).to_pydict()
    return columns


def test_ten_kills_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    chance, runner = random.Random(0), Runner()
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    expected, ends = runner.finish(undisturbed)
    epoch_seconds = median(later - earlier for earlier, later in pairwise(ends))

    for kill in range(KILLS):
        process, pipe = runner.start(killed)
        for _ in range(min(kill, chance.randint(1, 2))):  # the first kill comes before there is any checkpoint
            pipe.recv()
        time.sleep(chance.uniform(0, epoch_seconds))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    finished, ends = runner.finish(killed)
    assert 0 < len(ends) < TRIAL.epochs  # it was resumed, not repeated
    assert (finished.status, finished.result) == (expected.status, expected.result)
    assert history(killed) == history(undisturbed)
    assert sorted(set(history(killed)["step"])) == list(range(1, TRIAL.steps + 1))
