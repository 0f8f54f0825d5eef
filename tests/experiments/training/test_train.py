"""One trial of real training: the same to the bit whatever happens on the way, and honest about what goes wrong."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import fastrank
from fastrank.experiments.data import DataError
from fastrank.experiments.records.layout import Layout
from fastrank.experiments.records.ledger import Status
from fastrank.experiments.training import checkpoint
from fastrank.experiments.training.build import derive_seeds
from fastrank.experiments.training.events import EpochEnd, Event, Finished, Warned
from fastrank.experiments.training.job import Job, run
from fastrank.experiments.trial import Trial

SPEC: dict[str, Any] = {
    "model": {"name": "mlp_bn", "depth": 2, "width": 16},
    "data": {"name": "digits"},
    **{"batch_size": 64, "lr": 0.5, "weight_decay": 0.01, "momentum": 0.9, "seed": 3},
    **{"epochs": 4, "milestones": [2], "gamma": 0.2},
    "tracking": {},
}


def trial(**changes: Any) -> Trial:
    return Trial.model_validate(SPEC | changes)


def run_trial(of: Trial, folder: Path, stop_after: int | None = None) -> tuple[list[Event], Finished]:
    """Train; what was reported, and the end. Stops by an error after the epoch ``stop_after``."""
    events: list[Event] = []
    for event in run(Job(of.id, {of.id: of.spec}), folder, "cpu"):
        if isinstance(event, Finished):
            return events, event
        events.append(event)
        if isinstance(event, EpochEnd) and event.epoch == stop_after:
            raise InterruptedError
    raise AssertionError("the trial did not finish")


def history(folder: Path, of: Trial) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = fastrank.read_history(Layout(folder).history(of.id)).to_pydict()
    return columns


class Reference(NamedTuple):
    """A trial that nothing happened to: its result, its history and what it reported."""

    finished: Finished
    history: dict[str, list[Any]]
    events: list[Event]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    events, finished = run_trial(trial(), folder)
    return Reference(finished, history(folder, trial()), events)


def stop_after(epoch: int, folder: Path) -> None:
    with pytest.raises(InterruptedError):
        run_trial(trial(), folder, stop_after=epoch)


def test_the_result(reference: Reference) -> None:
    finished, columns, events = reference
    result = finished.result
    assert finished.status is Status.DONE
    assert finished.seconds > 0
    assert (result["steps"], result["full_rank"]) == (88, 16.0)
    assert columns["step"] == [step for step in range(1, 89) for _ in range(2)]
    assert columns["name"] == ["layers.0.weight", "layers.1.weight"] * 88
    assert result["average_rank"] == np.mean([columns["rank_lower"][-2:], columns["rank_upper"][-2:]])
    assert result["train_accuracy"] > 0.9
    assert result["test_accuracy"] > 0.9
    assert [event.epoch for event in events if isinstance(event, EpochEnd)] == [1, 2, 3, 4]
    losses = [event.train_loss for event in events if isinstance(event, EpochEnd)]
    assert losses == sorted(losses, reverse=True)
    assert events[-1] == EpochEnd(trial().id, 4, result["average_rank"], result["test_accuracy"], losses[-1])
    assert result["test_accuracies"] == [event.test_accuracy for event in events if isinstance(event, EpochEnd)]
    assert (result["device"], result["stacked"]) == ("cpu", 1)
    assert result["patches"] == {"layers.0.weight": 1, "layers.1.weight": 1}
    spectra = [step for step, s in zip(columns["step"], columns["singular_values"], strict=True) if s]
    assert sorted(set(spectra)) == [1, 22, 44, 66, 88]  # the first step and the end of each epoch


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_resuming_changes_nothing(tmp_path: Path, reference: Reference, epoch: int) -> None:
    stop_after(epoch, tmp_path)
    events, finished = run_trial(trial(), tmp_path)
    assert (finished.status, finished.result) == (reference.finished.status, reference.finished.result)
    assert history(tmp_path, trial()) == reference.history
    assert events == reference.events[epoch:]


def test_the_global_random_state_neither_matters_nor_changes(tmp_path: Path, reference: Reference) -> None:
    torch.manual_seed(1234)
    np.random.seed(1234)  # noqa: NPY002 (the global state is the point)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert run_trial(trial(), tmp_path)[1].result == reference.finished.result
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def exchange(path: Path) -> None:
    other = trial(model={"name": "mlp_bn", "depth": 3, "width": 16})
    with pytest.raises(InterruptedError):
        run_trial(other, path.parents[1], stop_after=1)
    shutil.copy(Layout(path.parents[1]).checkpoint(other.id), path)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, exchange])
def test_a_damaged_checkpoint_is_named_and_the_trial_starts_over(
    tmp_path: Path, reference: Reference, damage: Callable[[Path], None]
) -> None:
    stop_after(2, tmp_path)
    path = Layout(tmp_path).checkpoint(trial().id)
    damage(path)
    events, finished = run_trial(trial(), tmp_path)
    warning, *rest = events
    assert isinstance(warning, Warned)
    assert str(path) in warning.text
    assert "starts over" in warning.text
    assert rest == reference.events
    assert finished.result == reference.finished.result
    assert history(tmp_path, trial()) == reference.history


def test_history_without_a_checkpoint_is_not_continued(tmp_path: Path, reference: Reference) -> None:
    stop_after(2, tmp_path)
    Layout(tmp_path).checkpoint(trial().id).unlink()
    run_trial(trial(), tmp_path)
    assert history(tmp_path, trial()) == reference.history


def test_training_goes_on_where_no_checkpoint_can_be_written(
    tmp_path: Path,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path, state: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save_checkpoint", refuse)
    events, finished = run_trial(trial(), tmp_path)
    assert finished.result == reference.finished.result
    warnings = {event.text for event in events if isinstance(event, Warned)}
    assert len(warnings) == 1
    assert str(Layout(tmp_path).checkpoint(trial().id)) in warnings.pop()


def test_divergence_is_a_result(tmp_path: Path) -> None:
    wild = trial(lr=1e30, weight_decay=0.5, momentum=0.0)
    _, finished = run_trial(wild, tmp_path)
    result = finished.result
    assert finished.status is Status.DIVERGED
    assert 0 < result["steps"] < wild.steps
    assert (result["average_rank"], result["train_accuracy"]) == (None, None)
    assert max(history(tmp_path, wild)["step"]) == result["steps"]


@pytest.mark.parametrize("epoch", [1, None], ids=["interrupted", "whole"])
def test_threads_are_left_as_they_were(tmp_path: Path, reference: Reference, epoch: int | None) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        if epoch:
            stop_after(epoch, tmp_path)
        else:  # and one thread has trained it: the sums of two would end in other bits
            assert run_trial(trial(), tmp_path)[1].result["digest"] == reference.finished.result["digest"]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_another_data_set_of_that_name_is_not_trained_on(tmp_path: Path) -> None:
    job = Job(trial().id, {trial().id: trial().spec}, data="0" * 64)
    with pytest.raises(DataError, match="the data set 'digits' here is not the sweep's: its digest is d4ac12cb14d1"):
        next(run(job, tmp_path, "cpu"))
    assert next(run(replace(job, data=trial().data.info.digest), tmp_path, "cpu"))


def test_a_sealed_checkpoint_that_cannot_be_unpickled_starts_over(tmp_path: Path, reference: Reference) -> None:
    """Such as one of another PyTorch, or of a version that kept something else in it."""
    path = Layout(tmp_path).checkpoint(trial().id)
    checkpoint.save_checkpoint(path, {"x": path})
    events, finished = run_trial(trial(), tmp_path)
    assert finished.result == reference.finished.result
    assert "the checkpoint cannot be read" in next(event.text for event in events if isinstance(event, Warned))


def test_seeds_are_independent() -> None:
    assert derive_seeds(0) == derive_seeds(0)
    words = [word for seed in range(100) for word in derive_seeds(seed)]
    assert len(set(words)) == len(words)
    assert all(0 <= word < 2**63 for word in words)
