"""A folder has one writer: the others are told, in this process and in others, and harm nothing."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from pathlib import Path

import pytest
from made_history import EARLIER, OTHER, Owner, earlier_run, make, record, start, steps_in, steps_of

from fastrank.history import HistoryError, HistoryWarning, read_history, write_history


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_one_is_refused_when_it_is_made(tmp_path, overwrite):
    first = make(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "link", tmp_path / "link" / ".." / "run"):
        with pytest.raises(HistoryError, match=OTHER):
            make(path, overwrite=overwrite)
    record(first, 1, 2)
    first.close()
    assert steps_in(tmp_path / "run") == [1, 2]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["part-00000.parquet"]


def test_after_close_another_may_write(tmp_path):
    first = make(tmp_path)
    record(first, 1)
    first.close()
    first.close()
    second = make(tmp_path)
    second.load_state_dict(first.state_dict())
    with pytest.raises(HistoryError, match=OTHER):
        record(first, 2)
    record(second, 2)
    second.close()
    with pytest.raises(HistoryError, match=EARLIER):  # which has gone on since
        record(first, 2)
    first.close()
    assert steps_in(tmp_path) == [1, 2]


def test_after_close_the_same_may_go_on(tmp_path):
    history = make(tmp_path)
    for step in (1, 2, 3):
        record(history, step)
        history.close()
    assert steps_in(tmp_path) == steps_of(history.to_arrow()) == [1, 2, 3]
    record(history, 4)
    with pytest.raises(HistoryError, match=OTHER):
        make(tmp_path)


def test_one_that_is_forgotten_in_a_cycle_does_not_stand_in_the_way(tmp_path):
    gc.disable()
    try:
        record(Owner(make(tmp_path)).history, 1)
        second = make(tmp_path)
    finally:
        gc.enable()
    assert steps_in(tmp_path) == [1]
    with pytest.raises(HistoryError, match=EARLIER):
        record(second, 1)


def test_one_in_another_process_that_is_killed(tmp_path):
    """Killed with SIGKILL, it has what it flushed; and the folder is free at once."""
    script = """
import sys; from made_history import *
history = make(Path(sys.argv[1])); owner = Owner(history)
record(history, 1, 2); history.flush(); record(history, 3)
print("ready", flush=True); input()
"""
    with start(script, tmp_path) as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        with pytest.raises(HistoryError, match=OTHER):
            make(tmp_path)
        process.kill()
    assert steps_in(tmp_path) == [1, 2]
    with pytest.raises(HistoryError, match=EARLIER):
        record(make(tmp_path), 1)


def forked(run):
    """Whether `run()` is true in a forked child; whose end is that of a script."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if run() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_does_not_write(tmp_path):
    """Nor does its end give the lock away; and it keeps nothing for itself beyond its parent's end."""
    history = make(tmp_path)
    owner = Owner(history)
    record(history, 1)

    def refused():
        history.close()
        with pytest.raises(HistoryError, match=OTHER):
            record(history, 2)
        nonlocal owner
        owner.itself = owner = None
        gc.collect()
        return True

    assert forked(refused)
    assert steps_in(tmp_path) == []
    with pytest.raises(HistoryError, match=OTHER):
        make(tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    history.close()
    make(tmp_path).close()  # while the child lives
    os.close(writing)
    os.close(reading)
    os.waitpid(child, 0)
    assert steps_in(tmp_path) == [1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_parts_of_an_earlier_run(tmp_path, overwrite):
    """They stay until the first step, and for ever if the run is continued."""
    state = earlier_run(tmp_path)
    history = make(tmp_path, overwrite=overwrite)
    record(history, 0, claim=False)
    history.close()
    assert steps_in(tmp_path) == [1, 2, 3], "a run without a step leaves them"
    history = make(tmp_path, overwrite=overwrite)
    record(history, 0, claim=False)
    history.load_state_dict({**state, "parts": 2})
    assert steps_in(tmp_path) == [1, 2]
    record(history, 13)
    history.close()
    assert steps_in(tmp_path) == steps_of(history.to_arrow()) == [1, 2, 13]

    history = make(tmp_path, overwrite=overwrite)
    record(history, 0, claim=False)
    if not overwrite:
        for _ in range(2):
            with pytest.raises(HistoryError, match=EARLIER):
                record(history, 1)
        with pytest.raises(HistoryError, match=EARLIER):
            history.flush()
        assert steps_in(tmp_path) == [1, 2, 13]
        return
    record(history, 1)
    assert steps_in(tmp_path) == []
    history.close()
    assert steps_in(tmp_path) == [0, 1]
    record(history, 2)
    history.close()
    assert steps_in(tmp_path) == [0, 1, 2], "its own parts are not of an earlier run"


def test_a_row_that_is_no_step_is_written_where_nothing_is_in_the_way(tmp_path):
    earlier_run(tmp_path / "old")
    for name, overwrite, flush in (("new", False, False), ("old", True, True)):
        history = make(tmp_path / name, overwrite=overwrite)
        record(history, 0, claim=False)
        if flush:
            history.flush()  # asked for
        history.close()
        assert steps_in(tmp_path / name) == [0]


def test_a_folder_that_was_removed_and_given_to_another(tmp_path):
    """As in a notebook, where the first tracker is still there."""
    folder = tmp_path / "ranks"
    first = make(folder, rows_per_part=2)
    record(first, 1)
    first.flush()
    record(first, 2)
    shutil.rmtree(folder)
    second = make(folder)
    record(second, 11)
    with pytest.raises(HistoryError, match=OTHER):
        first.flush()
    second.close()
    with pytest.raises(HistoryError, match=EARLIER):
        first.flush()
    assert steps_in(folder) == [11]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_folder_that_another_has_used_since(tmp_path, steps):
    """However many parts it has written, in place of those that were there."""
    first = make(tmp_path)
    for step in (1, 2):
        record(first, step)
        first.close()
    second = make(tmp_path, overwrite=True)
    for step in range(11, 11 + steps):
        record(second, step)
        second.close()
    with pytest.raises(HistoryError, match=EARLIER):
        record(first, 3)
    first.close()
    assert steps_in(tmp_path) == list(range(11, 11 + steps))


def test_a_folder_that_was_removed(tmp_path):
    folder = tmp_path / "ranks"
    history = make(folder)
    record(history, 1)
    shutil.rmtree(folder)
    with pytest.warns(HistoryWarning, match="cannot be locked"), pytest.raises(OSError, match="ranks"):
        history.flush()
    assert steps_of(history.to_arrow()) == [1]
    folder.mkdir()
    history.close()
    assert steps_in(folder) == [1]


def test_without_pyarrow_nothing_is_recorded_in_vain(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="pyarrow"):
        make(tmp_path)
    make()


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    history = make(Path("~/ranks"))
    record(history, 1)
    history.close()
    assert steps_in(tmp_path / "ranks") == [1]
    whole = read_history("~/ranks")
    write_history(whole, "~/all.parquet")
    assert whole == read_history("~/all.parquet") == read_history(["~/ranks/part-00000.parquet"])
