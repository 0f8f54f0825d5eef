"""A training that was interrupted goes on with its history, whole, on however many ranks."""

from __future__ import annotations

import pytest
from processes import IMPORTS, run
from sharded import assert_same, rows_of
from sharded_resumes import SAVED, STEPS, resumed, staged, stages_in

from fastrank import read_history


@pytest.fixture(scope="module")
def folder(two_ranks):
    """Where `sharded_resumes.interrupted` has left its checkpoint and its history."""
    return two_ranks.folder


@pytest.fixture(scope="module")
def found(folder):
    return run(resumed, 4, str(folder), timeout=150, imports=IMPORTS)


def test_a_checkpoint_goes_on_with_one_whole_history_on_any_number_of_ranks(found, folder):
    twin = found[3]["twin"]
    assert [row["step"] for row in twin[::16]] == list(range(1, STEPS + 1))
    for name, rank in {"4": 0, "2": 0, "1": 2, "plain": 3}.items():
        assert_same(found[rank][name], twin)
        assert read_history(folder / name).num_rows == len(twin)
    assert [found[rank].get("2") for rank in range(1, 4)] == [None] * 3


def test_stages_go_on_with_one_whole_history_on_any_number_of_ranks(found, folder):
    twin = staged(0, 1, range(STEPS), None)[1]
    names = found[1]["stages"]
    assert names == sorted(twin.names, key=lambda name: (name.startswith("gradient"), name))
    assert names != twin.names
    rows = {(row["step"], row["name"]): row for row in rows_of(twin)}
    expected = [rows[step, name] for step in range(1, STEPS + 1) for name in names]
    assert_same(found[0]["stages"], expected)

    alone = staged(0, 1, range(SAVED, STEPS), None, stages_in(folder)[0])[1]
    assert_same(sorted(rows_of(alone), key=lambda r: (r["step"], names.index(r["name"]))), expected)
    assert_same(rows_of(alone)[SAVED * len(names) :], rows_of(twin)[SAVED * len(names) :])


def test_the_state_of_another_rank_than_the_first_is_refused_by_the_first(found):
    assert "it is that of another process than the first" in found[0]["state of another rank"]
    assert [found[rank].get("state of another rank") for rank in range(1, 4)] == [None] * 3
