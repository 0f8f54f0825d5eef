"""Trainings of several ranks beside the plain case: replicas, of which one measures; alerts; several trackers."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from processes import IMPORTS, run
from sharded import Llama, assert_same, by_fsdp, line, rows_of, train
from torch import distributed, nn
from torch.distributed import checkpoint
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from fastrank import RankTracker, Tolerance, alerts, read_history
from fastrank.history import HistoryError


def refusal(call, *arguments):
    """What a call raises."""
    try:
        call(*arguments)
    except (HistoryError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def replicas(rank, folder):
    """A `DistributedDataParallel`, saved and resumed, with what an idle rank says to everything that can be asked."""
    found, histories = {}, []
    for own in ("first", "second"):
        torch.manual_seed(0)
        model = DistributedDataParallel(Llama())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        with RankTracker(model, optimizer, directory=folder / "ddp", timeout=60) as tracker:
            if own == "second":
                checkpoint.load({"model": model, "tracker": tracker}, checkpoint_id=folder / "saved")
            train(model, optimizer, 3, 3 * len(histories))
            tracker.flush()
            histories.append(rows_of(tracker) if rank == 0 else refusal(tracker.to_arrow))
            if own == "first":
                checkpoint.save({"model": model, "tracker": tracker}, checkpoint_id=folder / "saved")
                state = tracker.state_dict()
                train(model, optimizer, 1)  # is lost
    found["histories"] = histories
    found["hooks"] = len(optimizer._optimizer_step_post_hooks)
    found["latest"] = {row["step"] for row in tracker.latest().values()}, len(tracker.scalars())
    everybodys = [None, None]
    distributed.all_gather_object(everybodys, state)
    found["state"] = sorted(state), refusal(tracker.load_state_dict, everybodys[1])
    idle = RankTracker(DistributedDataParallel(nn.Linear(4, 4)))
    if rank == 1:
        idle.step()
        idle.replayed(3)
        idle.load_state_dict(everybodys[0])
        idle.close()
        found["idle"] = repr(idle), idle.names, idle.should_stop, idle.full_rank
    return found


def alerted(rank):
    """A matrix that is zero from step 3 on, of a sharded model."""
    called, logged, stops = [], [], []
    model = fully_shard(nn.Sequential(nn.Linear(8, 6, bias=False)))
    rule = alerts.below(0.5, [called.append, "log", "stop"])

    def sink(step, values):
        logged.append((step, sorted(values)))

    with warnings.catch_warnings(record=True) as warned, RankTracker(model, alerts=[rule], log=[sink]) as tracker:
        warnings.simplefilter("always", alerts.AlertWarning)
        for step in range(1, 6):
            if step == 3:
                with torch.no_grad():
                    model[0].weight.zero_()
            tracker.step()
            stops.append(tracker.should_stop)
    found = [alert.step for alert in called], [step for step, names in logged if names == ["alert/below_0.5/0.weight"]]
    return stops, *found, len([w for w in warned if w.category is alerts.AlertWarning]), len(logged)


def several(rank):
    """Two trackers of a sharded model at once, and one that is made when they are closed; then the same unsharded."""
    found = []
    for shard in (True, False):
        torch.manual_seed(0)
        model = by_fsdp(Llama(), line()) if shard else Llama()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        first = RankTracker(model, optimizer, tolerance=Tolerance(0.15), of=["update"])
        second = RankTracker(model, optimizer, tolerance=Tolerance(0.3), every=2, spectrum=["effective_rank"])
        train(model, optimizer, 3)
        first.close()
        train(model, optimizer, 2, 3)
        second.close()
        third = RankTracker(model, optimizer, tolerance=Tolerance(0.15), first_step=6, initial=True)
        train(model, optimizer, 2, 5)
        third.close()
        found.append([rows_of(tracker) for tracker in (first, second, third)] if rank == 0 or not shard else None)
    return found


def everything(rank, folder):
    return replicas(rank, Path(folder)), alerted(rank), several(rank)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def found(folder):
    return list(zip(*run(everything, 2, str(folder), timeout=120, imports=IMPORTS), strict=True))


def test_of_replicas_the_first_one_measures_and_the_others_are_idle(found, folder):
    first, idle = found[0]
    steps = [sorted({row["step"] for row in rows}) for rows in first["histories"]]
    assert steps == [[1, 2, 3], [1, 2, 3, 4, 5, 6]]
    assert first["histories"][1] == read_history(folder / "ddp").to_pylist()
    assert first["histories"][1][:48] == first["histories"][0]
    assert first["latest"][0] == {6}
    assert "packed" in first["state"][0]
    kept = "HistoryError: this process keeps no history: the first of those that have the model keeps it"
    assert idle["histories"] == [kept, kept]
    assert idle["hooks"] == 0
    assert idle["latest"] == (set(), 0)
    assert idle["idle"] == (
        "RankTracker: 1 matrix of Linear, no step recorded yet (every step)",
        ["weight"],
        False,
        4.0,
    )


def test_states_of_replicas(found):
    first, idle = found[0]
    assert first["state"][1].startswith("ValueError: state_dict: it is that of a process that does not measure; load ")
    assert idle["state"] == ([], None)


def test_an_alert_stops_all_ranks_after_the_same_step_and_does_the_rest_on_the_first(found):
    stops = [False, False, False, True, True]
    assert found[1] == ((stops, [3], [3], 1, 6), (stops, [], [], 0, 0))


def test_several_trackers_of_a_sharded_model_are_those_of_its_unsharded_twin(found):
    for rows, expected in zip(*found[2][0], strict=True):
        assert_same(rows, expected)
    assert [len(rows) for rows in found[2][0][0]] == [3 * 16, 3 * 16, 3 * 16]
