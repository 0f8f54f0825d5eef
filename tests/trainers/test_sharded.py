"""The callbacks of trainers in two processes, which have shards of the weights, or all have the same weights.

What is trained is in `tests/helpers/sharded_lightning.py` and `sharded_transformers.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import run

TRAINERS = ("sharded_lightning", "sharded_transformers")
NUMBERS = ("stable_rank", "spectral_norm", "frobenius_norm")
"""What differs between two ways to train by the rounding of the training. Everything else is the same."""


def everything(rank, folder):
    from sharded_lightning import by_lightning
    from sharded_transformers import by_accelerate, by_transformers

    found = {}
    for train in (by_lightning, by_transformers, by_accelerate, decided):
        own = Path(folder) / train.__name__
        own.mkdir(exist_ok=True)
        found[train.__name__] = train(rank, own)
    return found


def decided(rank, folder):
    """What a process decides where what is tracked is not sharded, but another weight is; and where the group that
    shares is without the first process."""
    from torch import distributed, nn, optim
    from torch.distributed.fsdp import fully_shard

    from fastrank.tracking import TrackedTraining

    model = nn.Sequential(nn.Linear(4, 4), fully_shard(nn.Linear(4, 4)))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    training = TrackedTraining({"include": ["0.weight"], "directory": folder / "ranks"}, None, False)
    training.begin(model, optimizer, 0, None, first=rank == 0)
    optimizer.step()
    training.end()
    found = {"rows": len(training.tracker.to_arrow()) if rank == 0 else len(training.tracker.latest())}
    group = distributed.new_group([1])
    if rank == 1:
        with pytest.raises(ValueError, match="share: the group has to contain the first process"):
            TrackedTraining({"share": group}, None, False).begin(model, optimizer, 0, None, first=False)
    return found


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """What everything has come to, by trainer: in the first process and in the second."""
    folder = str(tmp_path_factory.mktemp("sharded"))
    first, second = run(everything, 2, folder, timeout=200, imports=TRAINERS)
    return {name: (first[name], second[name]) for name in first}


def assert_same(rows, expected):
    assert [(row["step"], row["name"]) for row in rows] == [(row["step"], row["name"]) for row in expected]
    for row, own in zip(rows, expected, strict=True):
        for key, value in own.items():
            assert row[key] == (pytest.approx(value, rel=1e-4) if key in NUMBERS else value), (own["name"], key)


def assert_only_the_first_keeps(first, second, steps, logged):
    """Both processes are at the same step, and have its rows; the first one has the others, and has logged."""
    assert (first["step"], second["step"]) == (steps, steps)
    assert first["rows"][-1]["step"] == steps
    assert first["last"] == second["last"]
    assert (first["logged"], second["logged"]) == (logged, [])


@pytest.mark.parametrize("trainer", ["by_lightning", "by_transformers"])
def test_of_the_same_weights_only_the_first_process_tracks(trainings, trainer):
    first, second = (found["alone"] for found in trainings[trainer])
    assert first["step"] == second["step"] == first["rows"][-1]["step"]
    assert first["logged"]
    assert not second["logged"]
    assert "last" not in second


def test_lightning_measures_together_what_is_sharded_or_shared(trainings):
    first, second = trainings["by_lightning"]
    for name in ("shared", "old"):
        assert_only_the_first_keeps(first[name], second[name], 8, [1, 3, 5, 7])
        assert_same(first[name]["rows"], [row for row in first["alone"]["rows"] if row["step"] <= 8])


def test_transformers_measures_together_what_is_shared(trainings):
    first, second = (found["shared"] for found in trainings["by_transformers"])
    assert_only_the_first_keeps(first, second, 8, [3, 6])
    assert_same(first["rows"], trainings["by_transformers"][0]["alone"]["rows"])


@pytest.mark.parametrize(("trainer", "logged"), [("by_lightning", [1, 3]), ("by_transformers", [4])])
def test_an_alert_stops_all_processes_after_the_same_step(trainings, trainer, logged):
    """A weight becomes Inf after step 5. That is seen after step 6, by the first process, and told at the next."""
    first, second = (found["stopped"] for found in trainings[trainer])
    assert_only_the_first_keeps(first, second, 7, logged)
    assert (first["alerts"], second["alerts"]) == (1, 0)


@pytest.mark.parametrize(("trainer", "logged"), [("by_lightning", [3, 5, 7]), ("by_transformers", [4, 8])])
def test_a_checkpoint_of_shards_goes_on_as_if_nothing_had_been(trainings, trainer, logged):
    first, second = (found["resumed"] for found in trainings[trainer])
    assert_only_the_first_keeps(first, second, 8, logged)
    assert_same(first["rows"], [row for row in trainings[trainer][0]["alone"]["rows"] if row["step"] <= 8])


def test_a_second_fit_of_shards_goes_on(trainings):
    first, second = (found["again"] for found in trainings["by_lightning"])
    assert_only_the_first_keeps(first, second, 12, [3, 5, 7, 9, 11])
    assert_same(first["rows"], trainings["by_lightning"][0]["alone"]["rows"])


def test_the_loop_with_accelerate_has_the_ranks_of_shards(trainings):
    first, second = trainings["by_accelerate"]
    assert [row["step"] for row in first["alone"]] == [step for step in range(1, 33) for _ in range(3)]
    assert_same(first["sharded"], first["alone"])
    assert second["sharded"] == [
        {key: value for key, value in row.items() if key != "name"} for row in first["sharded"][-3:]
    ]


def test_processes_share_where_any_weight_is_sharded(trainings):
    assert trainings["decided"] == ({"rows": 1}, {"rows": 1})
