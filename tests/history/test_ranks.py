"""Ranks that were given the same folder: one writes, and the others say that they do not."""

from __future__ import annotations

import errno
import os
import sys

import pytest
import torch.distributed
from made_history import EARLIER, OTHER, earlier_run, make, record, steps_in, steps_of

from fastrank.history import HistoryError, HistoryWarning, parts


@pytest.fixture
def rank(monkeypatch):
    """`rank(1)`: this process is rank 1 of a job, for all that the library can tell."""
    return lambda number: monkeypatch.setenv("RANK", str(number))


def test_ranks_that_share_a_folder(tmp_path, rank):
    first = make(tmp_path, rows_per_part=2)
    rank(1)
    second = make(tmp_path, rows_per_part=2)
    record(first, 1)
    record(second, 0, claim=False)
    message = "rows of rank 1 stay in memory, because another rank writes there: make the tracker on rank 0 alone"
    with pytest.warns(HistoryWarning, match=message):
        record(second, 1)
    for step in range(2, 600):  # beyond a block, which makes a part
        record(first, step)
        record(second, step)
    first.close()
    second.flush()
    second.close()
    record(second, 600)
    second._on_alarm()
    assert steps_in(tmp_path) == list(range(1, 600))
    assert steps_of(second.to_arrow()) == list(range(601))
    assert second.state_dict()["parts"] == 0


@pytest.mark.parametrize("stepped", [False, True])
def test_ranks_that_load_a_state_together(tmp_path, rank, stepped):
    """Only one removes parts, and the other survives that they vanish before its eyes. Even if the writer is closed
    first, the other neither writes nor removes anything."""
    state = earlier_run(tmp_path)
    first = make(tmp_path)
    rank(1)
    second = make(tmp_path)
    record(second, 0, claim=False)
    second.load_state_dict({**state, "parts": 1})
    assert steps_in(tmp_path) == [1, 2, 3]
    first.load_state_dict({**state, "parts": 2})
    assert steps_of(second.to_arrow()) == [1]
    record(first, 3, 4)
    if stepped:
        with pytest.warns(HistoryWarning, match="rank 1"):
            record(second, 2)
    first.close()
    second.close()
    assert steps_in(tmp_path) == [1, 2, 3, 4]
    assert steps_of(second.to_arrow()) == ([1, 2] if stepped else [1])


def test_parts_that_vanish_while_they_are_removed(tmp_path, monkeypatch):
    state = earlier_run(tmp_path)
    honest = parts._stamp

    def and_then_it_is_gone(path):
        stamp = honest(path)
        if path.name == "part-00001.parquet":
            path.unlink(missing_ok=True)
        return stamp

    monkeypatch.setattr(parts, "_stamp", and_then_it_is_gone)
    make(tmp_path).load_state_dict({**state, "parts": 1})
    assert steps_in(tmp_path) == [1]


def test_ranks_with_folders_of_their_own(tmp_path, rank):
    rank(1)
    history = make(tmp_path)
    record(history, 1)
    history.close()
    with pytest.raises(HistoryError, match=EARLIER):
        record(make(tmp_path), 1)
    again = make(tmp_path, overwrite=True)
    record(again, 7)
    rank(0)
    with pytest.raises(HistoryError, match=OTHER):
        make(tmp_path)
    again.close()
    assert steps_in(tmp_path) == [7]


def test_a_rank_is_known_from_the_process_group(tmp_path, monkeypatch, rank):
    first = make(tmp_path)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    with pytest.warns(HistoryWarning, match="rows of rank 3"):
        record(make(tmp_path), 1)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    rank(5)
    with pytest.raises(HistoryError, match=OTHER):
        make(tmp_path)
    first.close()


@pytest.mark.parametrize("name", ["low", "", "-1"])
def test_a_variable_of_this_name_may_mean_something_else(tmp_path, rank, name):
    rank(name)
    first = make(tmp_path)
    with pytest.raises(HistoryError, match=OTHER):
        make(tmp_path)
    first.close()


@pytest.fixture(params=["no locks", "no module", "no permission"])
def no_locks(request, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    opens = os.open

    def forbid(path, *options, **more):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opens(path, *options, **more)

    if request.param == "no locks":
        monkeypatch.setattr(fcntl, "flock", refuse)
    elif request.param == "no module":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        monkeypatch.setattr(os, "open", forbid)


@pytest.mark.usefixtures("no_locks")
def test_a_folder_that_cannot_be_locked(tmp_path, rank):
    """Rank 0 writes nevertheless; which other rank might, nobody knows."""
    with pytest.warns(HistoryWarning, match="it cannot be locked .* make sure that nobody else"):
        history = make(tmp_path, rows_per_part=2)
    record(history, *range(1, 600))  # no further warning, which would be an error
    rank(2)
    other = make(tmp_path)
    with pytest.warns(HistoryWarning, match="rows of rank 2 stay in memory, because it cannot be locked"):
        record(other, 1)
    history.close()
    other.close()
    assert steps_in(tmp_path) == list(range(1, 600))
