"""A loop's run of trackio keeps its steps; by a run that counts as trackio's does, and by trackio where it is."""

import contextvars
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from fastrank.sinks import Relay, Trackio, open_sink


class Run:
    def __init__(self, reached: int = -1) -> None:
        self.id, self._next_step, self.finished = "x", reached + 1, False
        self.logs: list[tuple[int, Mapping[str, Any]]] = []

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        step = self._next_step if step is None else step
        self._next_step = max(self._next_step, step + 1)
        self.logs.append((step, metrics))

    def finish(self) -> None:
        self.finished = True


class Fake(ModuleType):
    def __init__(self) -> None:
        super().__init__("trackio")
        self.context_vars = ModuleType("trackio.context_vars")
        self.context_vars.current_run = contextvars.ContextVar("current_run", default=None)  # type: ignore[attr-defined]

    def init(self, project: str, **arguments: Any) -> Run:
        self.arguments = {"project": project, **arguments}
        self.opened = Run(reached=2 if arguments.get("resume") == "allow" else -1)
        self.context_vars.current_run.set(self.opened)
        return self.opened


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setitem(sys.modules, "trackio.context_vars", fake.context_vars)
    return fake


def test_without_a_run_one_is_opened_and_the_loop_has_none(trackio: Fake) -> None:
    sink = open_sink("trackio")
    for step in (1, 5):
        sink.log(step, {"rank/mean": 0.5})
    assert trackio.context_vars.current_run.get() is None
    sink.close()
    assert trackio.opened.logs == [(1, {"rank/mean": 0.5}), (5, {"rank/mean": 0.5})]
    assert (trackio.arguments["project"], trackio.opened.finished) == ("fastrank", True)


def test_a_resumed_run_has_no_point_twice(trackio: Fake) -> None:
    sink = Trackio(project="p", name="n", resume="allow")
    for step in (1, 2, 3):
        sink.log(step, {"rank/mean": 0.5})
    assert trackio.opened.logs == [(3, {"rank/mean": 0.5})]


def test_the_loops_own_steps_are_what_they_were(trackio: Fake) -> None:
    relay, run = Relay(open_sink("trackio")), Run()
    token = trackio.context_vars.current_run.set(run)
    for epoch in range(3):
        run.log({"loss": epoch})
        if not epoch:
            relay.log(100, {"rank/mean": 0.5})  # finds the run in this thread, and tells it in another one
    relay.close()
    trackio.context_vars.current_run.reset(token)
    assert [step for step, metrics in run.logs if "loss" in metrics] == [0, 1, 2]
    ((step, point),) = [log for log in run.logs if "rank/mean" in log[1]]
    assert (point, step <= 2, run.finished) == ({"rank/mean": 0.5, "rank/step": 100}, True, False)


def test_a_run_is_taken_for_what_it_is(trackio: Fake) -> None:
    assert isinstance(open_sink(Run()), Trackio)


def test_the_real_one_does_the_same(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when it is imported
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    relay = Relay(open_sink("trackio"))
    run = trackio.init(project="theirs", name="n", embed=False, auto_log_cpu=False)
    for epoch in range(2):
        trackio.log({"loss": epoch})
    relay.log(100, {"rank/mean": 0.5})
    relay.close()
    trackio.log({"loss": 2})
    trackio.finish()
    assert run.name == "n"
    logs = SQLiteStorage.get_logs("theirs", "n")
    assert [log["step"] for log in logs if "loss" in log] == [0, 1, 2]
    assert [(log["rank/step"], log["rank/mean"]) for log in logs if "rank/mean" in log] == [(100, 0.5)]
