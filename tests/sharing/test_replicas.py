"""Trainings of several ranks beside the plain case: replicas, of which one measures; alerts; several trackers."""

from __future__ import annotations

import pytest
from sharded import assert_same

from fastrank import read_history


def test_of_replicas_the_first_one_measures_and_the_others_are_idle(two_ranks):
    first, idle = (own["replicas"] for own in two_ranks.found)
    steps = [sorted({row["step"] for row in rows}) for rows in first["histories"]]
    assert steps == [[1, 2, 3], [1, 2, 3, 4, 5, 6]]
    assert first["histories"][1] == read_history(two_ranks.folder / "ddp").to_pylist()
    assert first["histories"][1][:48] == first["histories"][0]
    assert first["latest"][0] == {6}
    assert "packed" in first["state"][0]
    assert len(idle["histories"]) == 2
    assert all(error.startswith("HistoryError: this process keeps no history: ask") for error in idle["histories"])
    assert idle["hooks"] == 0
    assert idle["latest"] == (set(), 0)
    assert idle["idle"] == (
        "RankTracker: 1 matrix of Linear, which another process measures",
        ["weight"],
        False,
        4.0,
    )


def test_states_of_replicas(two_ranks):
    first, idle = (own["replicas"] for own in two_ranks.found)
    assert first["state"][1].startswith("ValueError: state_dict: it is that of a process that does not measure; load ")
    assert idle["state"] == ([], None)


def test_an_alert_stops_all_ranks_after_the_same_step_and_does_the_rest_on_the_first(two_ranks):
    stops = [False, False, False, True, True]
    assert [own["alerts"] for own in two_ranks.found] == [(stops, [3], [3], 1, 6), (stops, [], [], 0, 0)]


def test_several_trackers_of_a_sharded_model_are_those_of_its_unsharded_twin(two_ranks):
    sharded, plain = two_ranks.found[0]["several"]
    for rows, expected in zip(sharded, plain, strict=True):
        assert_same(rows, expected)
    assert [len(rows) for rows in sharded] == [3 * 16, 3 * 16, 3 * 16]


def test_a_model_that_was_evaluated_before_is_tracked_as_its_shards(two_ranks):
    same = [True, True, True]
    assert [own["evaluated"] for own in two_ranks.found] == [([32, 32], same), ([None, None], same)]


def test_gradients_that_are_sums_still_to_be_made_are_measured_as_their_weights_are_placed(two_ranks):
    found = two_ranks.found[0]["gradients"]
    assert any(is_sum for is_sum, _, _ in found)
    for _, norm, measured in found:
        assert measured == pytest.approx(norm, rel=1e-5)
