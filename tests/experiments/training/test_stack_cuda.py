"""A stack on a GPU: its step is a CUDA graph, and its trials are those of a CPU within rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pydantic", reason="sweeps need pydantic")
import fastrank
from fastrank.experiments.records.layout import Layout
from fastrank.experiments.records.ledger import Status
from fastrank.experiments.training.events import EpochEnd, Finished
from fastrank.experiments.training.job import Job, run, trainee
from fastrank.experiments.training.stack import StackTraining
from fastrank.experiments.trial import Trial
from fastrank.measuring import compilation

pytestmark = pytest.mark.gpu
SPEC: dict[str, Any] = {
    "model": {"name": "mlp_bn", "depth": 3, "width": 40},
    "data": {"name": "digits"},
    **{"batch_size": 32, "lr": 0.2, "weight_decay": 0.01, "momentum": 0.0},
    **{"epochs": 3, "milestones": [2], "gamma": 0.2},
    "tracking": {"spectrum_every_epochs": 1},
}
TRIALS = [
    Trial.model_validate(SPEC | {"seed": seed, "weight_decay": decay}) for seed in (0, 1) for decay in (0.0, 0.01)
]
JOB = Job("stack-0", {trial.id: trial.spec for trial in TRIALS})


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(compilation, "AHEAD", False)  # what a capture finds ready must not depend on the compiler


@pytest.mark.parametrize("every", [2, 5])
def test_a_step_is_a_graph_also_where_few_are_recorded(tmp_path: Path, every: int) -> None:
    tracking = {"tracking": {"every": every, "spectrum_every_epochs": 0}}
    sparse = [Trial.model_validate(trial.spec | tracking) for trial in TRIALS]
    job = Job("stack-1", {trial.id: trial.spec for trial in sparse})
    for epoch in (1, 2):  # and twice more from a checkpoint
        for event in run(job, tmp_path, "cuda"):
            if isinstance(event, EpochEnd) and event.epoch == epoch:
                break
    finished = [event for event in run(job, tmp_path, "cuda") if isinstance(event, Finished)]
    assert [event.status for event in finished] == [Status.DONE] * len(sparse)
    steps = sorted(set(fastrank.read_history(Layout(tmp_path).history(sparse[0].id))["step"].to_pylist()))
    assert steps == sorted({1, *range(every, sparse[0].steps + 1, every)})


def finish(folder: Path, device: str) -> dict[str, Finished]:
    return {event.trial: event for event in run(JOB, folder, device) if isinstance(event, Finished)}


def test_a_step_is_a_graph(tmp_path: Path) -> None:
    stack = trainee(JOB, tmp_path, torch.device("cuda"))
    assert isinstance(stack, StackTraining)
    stack.practise(8)
    torch.cuda.synchronize()
    assert stack.replay.captured
    assert int(stack.step) == 8
    assert {row["step"] for row in stack.ranks.latest().values()} == {8}
    stack.close()


def test_trials_end_as_on_a_cpu(tmp_path: Path) -> None:
    """Data orders are the devices' own, so that only statistics agree: accuracy within 5 %, a history without a gap."""
    here, there = finish(tmp_path / "cuda", "cuda"), finish(tmp_path / "cpu", "cpu")
    for trial in TRIALS:
        ours, theirs = here[trial.id], there[trial.id]
        assert ours.status is theirs.status is Status.DONE
        assert ours.result["test_accuracy"] == pytest.approx(theirs.result["test_accuracy"], abs=0.05)
        assert ours.result["average_rank"] == pytest.approx(theirs.result["average_rank"], abs=4)
        history = fastrank.read_history(Layout(tmp_path / "cuda").history(trial.id))
        assert history["step"].to_pylist() == [step for step in range(1, trial.steps + 1) for _ in range(3)]
        spectral = {
            s for s, v in zip(history["step"].to_pylist(), history["singular_values"].to_pylist(), strict=True) if v
        }
        assert spectral == {1, *(epoch * trial.steps_per_epoch for epoch in (1, 2, 3))}


def test_a_stack_on_a_gpu_is_resumed(tmp_path: Path) -> None:
    for event in run(JOB, tmp_path, "cuda"):
        if isinstance(event, EpochEnd) and event.epoch == 2:
            break
    resumed = finish(tmp_path, "cuda")
    for trial in TRIALS:
        history = fastrank.read_history(Layout(tmp_path).history(trial.id))
        assert history["step"].to_pylist() == [step for step in range(1, trial.steps + 1) for _ in range(3)]
        assert resumed[trial.id].result["steps"] == trial.steps
