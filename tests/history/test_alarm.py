"""What a killed process loses is no older than `flush_every`: an alarm writes what does not make a part yet."""

from __future__ import annotations

import copy
import gc
import threading
import time
import weakref

import pytest
from full_disk import full_disk
from made_history import make, record, start, steps_in, steps_of

from fastrank.history import HistoryWarning, ring
from fastrank.history.alarm import Alarm


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def names(folder):
    return sorted(path.name for path in folder.glob("part-*"))


def test_rows_are_written_though_nothing_else_happens(tmp_path):
    rows = make(tmp_path, flush_every=0.01)
    for steps in ([1], [1, 2, 3]):
        record(rows, *steps[len(steps) // 2 :])
        until(lambda steps=steps: steps_in(tmp_path) == steps)
        assert rows.state_dict()["parts"] == 0
    rows.flush()
    rows.flush()
    assert names(tmp_path) == ["part-00000.parquet"]
    assert steps_in(tmp_path) == steps_of(rows.to_arrow()) == [1, 2, 3]
    assert rows.state_dict()["parts"] == 1
    rows.close()


def test_a_process_that_is_killed_loses_only_what_is_younger(tmp_path):
    script = """
import sys; from made_history import *
history = make(Path(sys.argv[1]), flush_every=0.05); owner = Owner(history)
for step in range(1, 10**6):
    record(history, step)
    print(step, flush=True)
    if step == 5: input()
    if step == 8: input()
"""
    with start(script, tmp_path) as process:
        until(lambda: steps_in(tmp_path) == [1, 2, 3, 4, 5])
        process.stdin.write("\n")
        process.stdin.flush()
        until(lambda: steps_in(tmp_path) == list(range(1, 9)))
        process.kill()


def test_parts_are_as_few_as_without_it(tmp_path, monkeypatch):
    """The same file is written again, until it has its rows."""
    monkeypatch.setattr(ring, "CAPACITY", 20)
    rows = make(tmp_path, rows_per_part=60)
    for step in range(1, 62):
        record(rows, step)
        rows._on_alarm()
        assert steps_in(tmp_path)[-1] == step
        assert len(names(tmp_path)) == -(-step // 30)
        assert rows._parts.count == (step - 1) // 30
    rows.close()
    assert steps_in(tmp_path) == list(range(1, 62))
    assert len(names(tmp_path)) == 3


@pytest.mark.parametrize("read", ["last", "state_dict", "to_arrow"])
def test_parts_are_complete_though_every_row_is_read(tmp_path, read):
    """So that the buffer on the device is never full."""
    rows = make(tmp_path, rows_per_part=20)
    for step in range(1, 52):
        record(rows, step)
        getattr(rows, read)()
    assert rows._parts.count == len(names(tmp_path)) == 5


def test_nothing_is_written_twice_that_has_not_changed(tmp_path):
    rows = make(tmp_path)
    record(rows, 1)
    rows._on_alarm()
    before = (tmp_path / "part-00000.parquet").stat().st_mtime_ns
    rows._on_alarm()
    rows.last()
    rows._on_alarm()
    assert (tmp_path / "part-00000.parquet").stat().st_mtime_ns == before


@pytest.mark.parametrize("again", [False, True])
def test_a_resumed_run_removes_what_the_alarm_wrote(tmp_path, again):
    rows = make(tmp_path)
    record(rows, 1)
    rows.flush()
    record(rows, 2)
    state = copy.deepcopy(rows.state_dict())
    record(rows, 3)
    rows._on_alarm()
    assert steps_in(tmp_path) == [1, 2, 3]
    if again:
        rows._parts.release()  # the process is killed
        rows = make(tmp_path)
    rows.load_state_dict(state)
    assert steps_in(tmp_path) == [1]
    rows._on_alarm()
    assert steps_in(tmp_path) == steps_of(rows.to_arrow()) == [1, 2]
    record(rows, 13)
    rows.close()
    assert steps_in(tmp_path) == steps_of(rows.to_arrow()) == [1, 2, 13]


def test_a_full_disk_is_a_warning_and_rows_are_kept(tmp_path):
    rows = make(tmp_path)
    record(rows, *range(1, 1000))
    with (
        full_disk(),
        pytest.warns(HistoryWarning, match=r"part-00000\.parquet: not written .* kept in memory"),
    ):
        rows._on_alarm()
    assert names(tmp_path) == []
    rows._on_alarm()
    assert steps_in(tmp_path) == steps_of(rows.to_arrow()) == list(range(1, 1000))


def test_a_row_that_is_no_step_does_not_harm_an_earlier_run(tmp_path):
    """A state may take long to be loaded."""
    earlier = make(tmp_path)
    record(earlier, 1)
    state = earlier.state_dict()
    earlier.close()
    rows = make(tmp_path, overwrite=True)
    record(rows, 0, claim=False)
    rows._on_alarm()
    assert steps_in(tmp_path) == [1]
    rows.load_state_dict(state)
    rows._on_alarm()
    assert steps_in(tmp_path) == [1]
    rows.close()

    fresh = make(tmp_path / "fresh")
    record(fresh, 0, claim=False)
    fresh._on_alarm()
    assert steps_in(tmp_path / "fresh") == [0]
    fresh.load_state_dict(make().state_dict())
    assert steps_in(tmp_path / "fresh") == []


def test_an_alarm_after_the_end_writes_nothing(tmp_path):
    rows = make(tmp_path)
    record(rows, 1)
    rows.close()
    other = make(tmp_path)
    rows._on_alarm()
    other.load_state_dict(rows.state_dict())
    assert steps_in(tmp_path) == [1]


def test_a_history_that_is_forgotten_is_not_kept_for_it(tmp_path):
    rows = make(tmp_path, flush_every=3600)
    record(rows, 1)
    waiting = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(thread.daemon for thread in waiting)
    left = weakref.ref(rows)
    del rows
    gc.collect()
    assert left() is None
    make(tmp_path).close()


def test_an_alarm_rings_once():
    class Bell:
        rung = 0

        def ring(self):
            self.rung += 1

    bell = Bell()
    alarm = Alarm(60, bell.ring)
    for expected in (1, 2):
        alarm.set()
        timer = alarm._timer
        for _ in range(2):
            alarm.set()
            assert alarm._timer is timer, "it waits already"
        timer.cancel()
        timer.function()  # as it does when its time has come, which may be between any two calls of `set`
        assert (alarm._timer, bell.rung) == (None, expected)
    Alarm(0.01, bell.ring).set()
    forever = Alarm(float("inf"), bell.ring)
    forever.set()
    forever.cancel()
    cancelled = Alarm(0.001, bell.ring)
    cancelled._timer = threading.Timer(0.001, bell.ring)
    cancelled.cancel()
    until(lambda: bell.rung == 3)
    time.sleep(0.01)
    assert bell.rung == 3


def test_rows_come_while_the_alarm_rings(tmp_path, monkeypatch):
    """Rows, readers and states in one thread, the alarm in another, each as fast as it can."""
    monkeypatch.setattr(ring, "CAPACITY", 16)
    rows = make(tmp_path, rows_per_part=200, flush_every=0)
    enough, failed = threading.Event(), []

    def ringing():
        try:
            while not enough.is_set():
                rows._on_alarm()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=ringing)
    thread.start()
    step, end = 0, time.monotonic() + 2
    while time.monotonic() < end:
        step += 1
        record(rows, step)
        if step % 7 == 0:
            assert rows.last().steps.tolist() == [step]
        if step % 50 == 0:
            assert steps_of(rows.to_arrow()) == list(range(1, step + 1))
        if step % 90 == 0:
            rows.flush()
        if step % 130 == 0:
            rows.load_state_dict(rows.state_dict())
    enough.set()
    thread.join()
    rows.close()
    assert not failed
    assert steps_in(tmp_path) == list(range(1, step + 1))
