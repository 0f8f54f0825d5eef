"""Trials trained as one program: each as if it had trained alone, within rounding, whatever happens on the way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import fastrank
from fastrank.experiments.records.layout import Layout
from fastrank.experiments.records.ledger import Status, TrialRecord
from fastrank.experiments.sweeps.stacks import halves, jobs, jobs_over
from fastrank.experiments.training.build import build_network
from fastrank.experiments.training.events import EpochEnd, Event, Finished, Warned
from fastrank.experiments.training.job import Job, run, trainee
from fastrank.experiments.training.stack import StackTraining
from fastrank.experiments.training.stack_history import split_history
from fastrank.experiments.training.stacked_mlp import StackedMLP
from fastrank.experiments.trial import Trial

SPEC: dict[str, Any] = {
    "model": {"name": "mlp_bn", "depth": 2, "width": 16},
    "data": {"name": "digits"},
    **{"batch_size": 64, "lr": 0.5, "weight_decay": 0.01, "momentum": 0.9, "seed": 3},
    **{"epochs": 4, "milestones": [2], "gamma": 0.2},
    "tracking": {"every": 3, "spectrum_every_epochs": 2},  # 22 steps an epoch: not all spectra fall on a third step
}
MEMBERS = [{"seed": 3, "lr": 0.5}, {"seed": 4, "lr": 0.1}, {"seed": 3, "weight_decay": 0.0}]


def trials(members: list[dict[str, Any]] = MEMBERS, **changes: Any) -> list[Trial]:
    return [Trial.model_validate(SPEC | changes | member) for member in members]


def stack_of(members: list[Trial]) -> Job:
    return Job("stack-0", {trial.id: trial.spec for trial in members})


def finish(events: Iterator[Event]) -> tuple[dict[str, Finished], list[Event]]:
    seen = list(events)
    return {event.trial: event for event in seen if isinstance(event, Finished)}, seen


def history(folder: Path, trial: Trial) -> pa.Table:
    return fastrank.read_history(Layout(folder).history(trial.id))


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Finished], list[Event]]:
    folder = tmp_path_factory.mktemp("stacked")
    return folder, *finish(run(stack_of(trials()), folder, "cpu"))


@pytest.mark.parametrize("model", ["mlp_bn", "mlp"])
def test_a_stack_computes_what_its_members_do(model: str) -> None:
    """To FP32's rounding: differences are within 1e-5 of the largest output, or gradient."""
    (trial,) = trials([{"model": {"name": model, "depth": 3, "width": 20}}])
    members = [build_network(trial.model, trial.data, seed) for seed in (1, 2, 3)]
    stack = StackedMLP(members)  # type: ignore[arg-type]
    x = torch.randn(3, 32, 1, 8, 8)
    together = stack(x)
    together.square().sum().backward()
    for i, member in enumerate(members):
        alone = member(x[i])
        alone.square().sum().backward()
        torch.testing.assert_close(together[i], alone, rtol=1e-5, atol=1e-5 * float(alone.detach().abs().max()))
        largest = max(float(p.grad.abs().max()) for p in member.parameters() if p.grad is not None)
        for name, parameter in member.named_parameters():
            own = dict(stack.named_parameters())[name].grad[i]  # type: ignore[index]
            grad = parameter.grad
            assert grad is not None
            torch.testing.assert_close(own, grad, rtol=1e-4, atol=1e-5 * largest)
        member.load_state_dict(stack.member(i))  # the same names and shapes, batch-norm's buffers included
    stack.eval()
    (one,) = (members[1].eval()(x[0]),)
    torch.testing.assert_close(stack(x[:1])[1], one, rtol=1e-4, atol=1e-4)


def test_each_trial_ends_as_if_alone(stacked: tuple[Path, dict[str, Finished], list[Event]], tmp_path: Path) -> None:
    """After 88 steps rounding has grown to 1e-4 of the metrics at most; the ranks are the same."""
    folder, finished, _ = stacked
    for trial in trials():
        alone, _ = finish(run(Job(trial.id, {trial.id: trial.spec}), tmp_path, "cpu"))
        own, expected = finished[trial.id], alone[trial.id]
        assert own.status is expected.status is Status.DONE
        assert own.result.keys() == expected.result.keys()
        for key in ("steps", "average_rank", "full_rank", "patches", "test_accuracies", "train_accuracy"):
            assert own.result[key] == pytest.approx(expected.result[key], abs=0.01), key
        assert own.result["stacked"] == 3
        ours, theirs = history(folder, trial), history(tmp_path, trial)
        assert ours.schema.equals(theirs.schema)
        assert ours["step"].to_pylist() == theirs["step"].to_pylist()
        assert ours["name"].to_pylist() == theirs["name"].to_pylist()
        assert ours["rank_lower"].to_pylist() == theirs["rank_lower"].to_pylist()
        for column in ("stable_rank", "spectral_norm", "frobenius_norm", "effective_rank", "nuclear_norm"):
            a, b = (np.array(t[column].to_pylist(), dtype=float) for t in (ours, theirs))
            np.testing.assert_allclose(a, b, rtol=1e-4, err_msg=column)
        spectra = [
            [step for step, s in zip(*t.select(["step", "singular_values"]), strict=True) if s.is_valid]
            for t in (ours, theirs)
        ]
        assert spectra[0] == spectra[1]


def test_every_epoch_of_every_trial_is_told(stacked: tuple[Path, dict[str, Finished], list[Event]]) -> None:
    _, finished, events = stacked
    told = [(event.trial, event.epoch) for event in events if isinstance(event, EpochEnd)]
    assert told == [(trial.id, epoch) for epoch in (1, 2, 3, 4) for trial in trials()]
    assert list(finished) == [trial.id for trial in trials()]
    assert len({finished[trial.id].result["digest"] for trial in trials()}) == 3


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_resuming_a_stack_changes_nothing(
    stacked: tuple[Path, dict[str, Finished], list[Event]], tmp_path: Path, epoch: int
) -> None:
    for event in run(stack_of(trials()), tmp_path, "cpu"):
        if isinstance(event, EpochEnd) and event.epoch == epoch:
            break
    finished, events = finish(run(stack_of(trials()), tmp_path, "cpu"))
    assert {e.epoch for e in events if isinstance(e, EpochEnd)} == set(range(epoch + 1, 5))
    for trial in trials():
        assert finished[trial.id].result == stacked[1][trial.id].result
        assert history(tmp_path, trial).equals(history(stacked[0], trial))


def test_a_checkpoint_of_other_trials_is_not_taken(tmp_path: Path) -> None:
    for event in run(stack_of(trials()[:2]), tmp_path, "cpu"):
        if isinstance(event, EpochEnd):
            break
    finished, events = finish(run(stack_of(trials()[1:]), tmp_path, "cpu"))
    (warning,) = [event for event in events if isinstance(event, Warned)]
    assert "it is of other trials" in warning.text
    assert len(finished) == 2


def test_one_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    wild = trials([{"seed": 3}, {"seed": 4, "lr": 1e30}, {"seed": 5}], momentum=0.0, weight_decay=0.5)
    finished, _ = finish(run(stack_of(wild), tmp_path, "cpu"))
    calm, diverged = finished[wild[0].id], finished[wild[1].id]
    assert calm.status is Status.DONE
    assert diverged.status is Status.DIVERGED
    assert 0 < diverged.result["steps"] < wild[1].steps
    assert (diverged.result["average_rank"], diverged.result["train_accuracy"]) == (None, None)
    assert max(history(tmp_path, wild[1])["step"].to_pylist()) <= diverged.result["steps"]
    alone, _ = finish(run(Job(wild[0].id, {wild[0].id: wild[0].spec}), tmp_path / "alone", "cpu"))
    assert calm.result["test_accuracy"] == pytest.approx(alone[wild[0].id].result["test_accuracy"], abs=0.02)


def test_a_diverged_trial_has_no_more_epochs_to_tell(tmp_path: Path) -> None:
    wild = trials([{"seed": 3}, {"seed": 4, "lr": 1e30}], momentum=0.0, weight_decay=0.5)
    _, events = finish(run(stack_of(wild), tmp_path, "cpu"))
    assert [event.trial for event in events if isinstance(event, EpochEnd)] == [wild[0].id] * 4


@pytest.mark.parametrize("batch_size", [1000, 1437])
def test_an_epoch_may_be_one_step(tmp_path: Path, batch_size: int) -> None:
    members = trials(batch_size=batch_size, tracking={})
    finish(run(stack_of(members), tmp_path, "cpu"))
    alone = Job(members[0].id, {members[0].id: members[0].spec})
    finish(run(alone, tmp_path / "alone", "cpu"))
    ours, theirs = history(tmp_path, members[0]), history(tmp_path / "alone", members[0])
    for column in ("step", "name", "rank_lower"):
        assert ours[column].to_pylist() == theirs[column].to_pylist()


def test_ranks_told_on_the_way_are_the_last_recorded(tmp_path: Path) -> None:
    """Between two spectra, and where few steps are recorded."""
    members = trials(epochs=6, tracking={"every": 50, "spectrum_every_epochs": 3}, weight_decay=0.1, lr=1.0)
    _, events = finish(run(stack_of(members), tmp_path, "cpu"))
    _, alone = finish(run(Job(members[0].id, {members[0].id: members[0].spec}), tmp_path / "alone", "cpu"))
    told = [
        [e.average_rank for e in seen if isinstance(e, EpochEnd) and e.trial == members[0].id]
        for seen in (events, alone)
    ]
    assert told[0] == pytest.approx(told[1], abs=0.5)
    assert len(set(told[1])) > 1


def test_practice_takes_the_steps_it_is_asked_for(tmp_path: Path) -> None:
    (one,) = trials(MEMBERS[:1], batch_size=1000)
    for job in (Job(one.id, {one.id: one.spec}), stack_of(trials(batch_size=1000))):
        subject = trainee(job, tmp_path, torch.device("cpu"))
        subject.practise(5)
        tracker = subject.ranks if isinstance(subject, StackTraining) else subject.tracker  # type: ignore[attr-defined]
        assert tracker.state_dict()["steps"] == 5
        subject.close()


def record(
    trial: Trial, status: Status = Status.PENDING, stack: str | None = None, started: str | None = None
) -> TrialRecord:
    return TrialRecord(trial.id, trial.spec, status, 0, stack, None, started, None, None, None, None)


def test_only_what_shares_all_else_is_stacked() -> None:
    alike = [record(trial) for trial in trials([{"seed": seed, "lr": lr} for seed in range(5) for lr in (0.1, 0.2)])]
    others = [record(trial) for trial in trials([{"batch_size": 32}, {"momentum": 0.0}, {"tracking": {}}])]
    convnet = [
        record(t) for t in trials([{"seed": s} for s in (1, 2)], model={"name": "convnet", "depth": 1, "width": 4})
    ]
    found = jobs([*alike, *others, *convnet], limit=4, slots=1)
    assert sorted(len(job.specs) for job in found) == [1, 1, 1, 1, 1, 3, 3, 4]
    assert {name for job in found for name in job.specs} == {r.id for r in (*alike, *others, *convnet)}
    assert all(job.is_stack == (len(job.specs) > 1) for job in found)
    assert len(jobs(alike, limit=100, slots=3)) == 3
    assert len(jobs(alike, limit=1, slots=3)) == 10


def test_what_began_alone_goes_on_alone() -> None:
    """It has a checkpoint of its own."""
    began, others = record(trials()[0], started="2026-01-01T00:00:00+00:00"), [record(t) for t in trials()[1:]]
    assert [list(job.specs) for job in jobs([began, *others], limit=10, slots=1)] == [
        [began.id],
        [r.id for r in others],
    ]


def test_stacks_stay_together_and_whole() -> None:
    """The checkpoint of a stack is of all its trials, also of those that have a result."""
    mine = [record(trial, stack="stack-7") for trial in trials()]
    mine[0] = record(trials()[0], Status.DONE, "stack-7")
    (job,) = jobs(mine, limit=2, slots=5)
    assert (job.name, list(job.specs)) == ("stack-7", [r.id for r in mine])
    assert jobs_over(mine) == []
    over = [record(trial, Status.DONE, "stack-7") for trial in trials()]
    assert jobs(over, limit=2, slots=5) == []
    assert [job.name for job in jobs_over(over)] == ["stack-7"]


def test_halves_of_a_stack() -> None:
    specs = {trial.id: trial.spec for trial in trials()}
    one, two = halves(specs)
    assert (one.is_stack, two.is_stack) == (False, True)
    assert one.specs | two.specs == specs


def test_what_a_graph_records_beyond_every_is_left_out(tmp_path: Path) -> None:
    """A CUDA graph records each step, whatever was asked for; the histories of the trials have what was."""
    rows = [(step, f"layers.0.weight[{i}]") for step in range(1, 21) for i in (0, 1)]
    steps, names = zip(*rows, strict=True)
    ranks = pa.table(
        {"step": steps, "name": pa.array(names).dictionary_encode(), "rank_lower": pa.array(steps, pa.int32())}
    )
    layout = Layout(tmp_path)
    (layout.history("stack-0") / "ranks").mkdir(parents=True)
    fastrank.write_history(ranks, layout.history("stack-0") / "ranks" / "part-00000.parquet")
    split_history(layout.history("stack-0") / "ranks", None, [], 6, {"one": 20, "two": 13}, layout)
    one, two = (fastrank.read_history(layout.history(name)) for name in ("one", "two"))
    assert one.to_pydict() == {"step": [1, 6, 12, 18], "name": ["layers.0.weight"] * 4, "rank_lower": [1, 6, 12, 18]}
    assert two["step"].to_pylist() == [1, 6, 12]
