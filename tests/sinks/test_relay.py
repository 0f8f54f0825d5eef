"""Neither an error nor a slow server disturbs the loop that a relay serves."""

import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any

import pytest

from fastrank.sinks import Background, Relay, SinkWarning, background, reason


class Notes:
    """A sink that writes down what it is told, and where."""

    title = "Notes"

    def __init__(self, fails_at: int | None = None, waits_for: threading.Event | None = None) -> None:
        self.told: list[tuple[int, Mapping[str, float]]] = []
        self.threads: set[str] = set()
        self.closed = 0
        self._fails_at, self._waits_for = fails_at, waits_for

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._waits_for:
            assert self._waits_for.wait(30)
        if step == self._fails_at:
            raise ConnectionError("no route\nto the host.")
        self.threads.add(threading.current_thread().name)
        self.told.append((step, values))

    def close(self) -> None:
        self.closed += 1


def test_all_points_come_in_order_in_a_thread_of_the_sinks_own() -> None:
    notes = Notes()
    relay, values = Relay(notes), {"a": 1.0}
    for step in range(20):
        relay.log(step, values)
        values["a"] += 1  # the loop may use the same dict again
    relay.log(20, {})
    relay.close()
    assert notes.told == [(step, {"a": step + 1.0}) for step in range(20)]
    assert (notes.threads, notes.closed) == ({"Notes"}, 1)


def test_there_is_one_warning_of_an_error_and_nothing_is_told_after_it() -> None:
    notes = Notes(fails_at=1)
    relay = Relay(notes, title="The lab's board")
    relay.log(0, {"a": 0.0})
    relay.log(1, {"a": 0.0})
    relay._background._thread.join(30)  # until it has failed
    with pytest.warns(SinkWarning) as caught:
        relay.log(2, {"a": 0.0})
    relay.log(3, {"a": 0.0})  # a second warning would be an error here
    relay.close()
    relay.log(4, {"a": 0.0})
    assert [str(warning.message) for warning in caught] == [
        "The lab's board is left out from now on: ConnectionError: no route. Nothing is lost: the history has every row"
    ]
    assert caught[0].filename == __file__
    assert (notes.told, notes.closed) == ([(0, {"a": 0.0})], 0)


def test_a_warning_points_at_the_loop() -> None:
    relay = Relay(Notes(fails_at=1))
    relay.log(1, {"a": 0.0})
    with pytest.warns(SinkWarning) as caught:
        relay.close()
    assert caught[0].filename == __file__


def test_a_slow_sink_holds_nobody_up_and_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "SAY_AFTER", 0.05)
    gate = threading.Event()
    notes = Notes(waits_for=gate)
    relay = Relay(notes)
    for step in range(3):
        relay.log(step, {"a": 0.0})
    assert notes.told == []
    threading.Timer(0.5, gate.set).start()
    with pytest.warns(SinkWarning, match="^Waiting for Notes$"):
        relay.close()
    assert (len(notes.told), notes.closed) == (3, 1)


def test_a_sink_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PATIENCE", 0.1)
    gate, started = threading.Event(), time.monotonic()
    notes = Notes(waits_for=gate)
    relay = Relay(notes)
    relay.log(1, {"a": 0.0})
    relay.log(2, {"a": 0.0})
    with pytest.warns(SinkWarning, match=r"^Notes does not answer and is given up. Nothing is lost"):
        relay.close()
    assert time.monotonic() - started < 20  # it would have waited for 30
    gate.set()
    relay._background._thread.join(30)
    assert [step for step, _ in notes.told] == [1]  # it ends as soon as it can


def test_a_sink_that_does_not_keep_up_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MOST", 3)
    gate = threading.Event()
    relay = Relay(Notes(waits_for=gate))
    for step in range(3):
        relay.log(step, {"a": 0.0})
    while relay._background._calls.qsize() != 2:
        time.sleep(0.01)  # until the thread has taken the first
    relay.log(3, {"a": 0.0})
    with pytest.warns(SinkWarning, match="Notes is left out from now on: it does not keep up"):
        relay.log(4, {"a": 0.0})
    gate.set()
    relay.close()


def test_a_sink_finds_the_loops_run_in_the_loops_thread_before_the_first_point() -> None:
    class Attaching(Notes):
        def attach(self) -> None:
            self.attached = threading.current_thread()

    notes = Attaching()
    relay = Relay(notes)
    assert not hasattr(notes, "attached")
    relay.log(1, {"a": 0.0})
    assert notes.attached is threading.main_thread()
    del notes.attached
    relay.log(2, {"a": 0.0})
    relay.close()
    assert not hasattr(notes, "attached")  # once


def test_an_error_while_it_looks_for_the_run_is_one_of_the_sinks() -> None:
    class Broken(Notes):
        def attach(self) -> None:
            raise RuntimeError("no run here")

    relay = Relay(Broken())
    relay.log(1, {"a": 0.0})
    with pytest.warns(SinkWarning, match="Notes is left out from now on: RuntimeError: no run here"):
        relay.close()


def test_what_is_not_the_other_sides_fault_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PATIENCE", 0.05)
    done, said = [], []

    def work(own: Background) -> None:
        own.busy = True
        time.sleep(0.5)
        own.busy = False
        done.append(True)

    own = Background("It", lambda: None, said.append, "")
    own.call(work, own)
    own.close()
    assert (done, said) == ([True], [])


def test_a_relay_that_nobody_closes_leaves_no_thread_behind() -> None:
    notes = Notes()
    relay = Relay(notes)
    thread = relay._background._thread
    relay.log(1, {"a": 0.0})
    del relay
    thread.join(30)
    assert not thread.is_alive()
    assert (len(notes.told), notes.closed) == (1, 1)


def test_warnings_as_errors_come_to_the_loop() -> None:
    relay = Relay(Notes(fails_at=1))
    relay.log(1, {"a": 0.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SinkWarning, match="no route"):
            relay.close()


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("a.\nb"), "ValueError: a"), (KeyError(), "KeyError"), (OSError(2, "gone"), "FileNotFoundError: [")],
)
def test_a_reason_is_a_line(error: Any, line: str) -> None:
    assert reason(error).startswith(line)
    assert "\n" not in reason(error)
