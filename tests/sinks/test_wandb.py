"""A loop's run of W&B keeps its step counter, and no point is at a wrong step; by a run that behaves as W&B's does."""

import json
import struct
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastrank.sinks import Relay, SinkWarning, WeightsAndBiases, open_sink


class Run:
    """Rows with a counter: `log` adds to the present row; without `step` and `commit` the next row begins after it."""

    def __init__(self, resumed: bool = False, summary: Mapping[str, Any] = {}) -> None:
        self.id, self.step, self.resumed, self.summary = "x", 0, resumed, dict(summary)
        self.rows: dict[int, dict[str, Any]] = {}
        self.metrics: dict[str, str | None] = {}
        self.finished = False

    def define_metric(self, name: str, step_metric: str | None = None, hidden: bool = False) -> None:
        self.metrics[name] = step_metric

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        if step is not None and step < self.step:
            return  # dropped
        self.step = self.step if step is None else step
        self.rows.setdefault(self.step, {}).update(data)
        self.step += bool(commit if commit is not None else step is None)

    def finish(self) -> None:
        self.finished = True

    def column(self, name: str) -> list[tuple[int, Any]]:
        return [(row["rank/step"], row[name]) for _, row in sorted(self.rows.items()) if name in row]


class Fake(ModuleType):
    run: Run | None = None
    key = True

    def init(self, **arguments: Any) -> Run:
        self.arguments = arguments
        self.opened = Run(resumed="id" in arguments, summary={"rank/step": 2} if "id" in arguments else {})
        return self.opened

    def setup(self) -> Any:
        class Setup:
            class settings:
                mode = "online"

        return Setup

    def login(self, prompt: bool, verify: bool) -> bool:
        assert (prompt, verify) == (False, False)
        return self.key

    def Settings(self, **settings: Any) -> Any:
        return settings


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def test_without_a_run_one_is_opened_and_finished(wandb: Fake) -> None:
    relay = Relay(open_sink("wandb"))
    for step in (1, 2, 5):
        relay.log(step, {"rank/mean": step / 8})
    relay.log(4, {"alert/below_0.1/fc": 1.0})  # late
    relay.close()
    assert (wandb.arguments["project"], wandb.arguments["reinit"]) == ("fastrank", "create_new")
    assert wandb.opened.column("rank/mean") == [(1, 0.125), (2, 0.25), (5, 0.625)]
    assert wandb.opened.column("alert/below_0.1/fc") == [(4, 1.0)]
    expected = {"rank/step": None, "rank/mean": "rank/step", "alert/below_0.1/fc": "rank/step"}
    assert (wandb.opened.metrics, wandb.opened.finished) == (expected, True)


def test_a_resumed_run_has_no_point_twice(wandb: Fake) -> None:
    sink = WeightsAndBiases(id="mine", resume="allow", project="p")
    for step in (1, 2, 3):
        sink.log(step, {"rank/mean": 0.5})
    assert wandb.opened.column("rank/mean") == [(3, 0.5)]
    assert wandb.arguments["project"] == "p"


def test_without_a_key_nobody_is_asked_for_one(wandb: Fake) -> None:
    wandb.key = False
    relay = Relay(open_sink("wandb"))
    relay.log(1, {"a": 1.0})
    with pytest.warns(SinkWarning, match="there is no API key: run 'wandb login' once"):
        relay.close()
    assert not hasattr(wandb, "opened")


@pytest.mark.parametrize("given", [True, False])
def test_the_loops_own_steps_are_all_there(wandb: Fake, given: bool) -> None:
    """With `step=` of another unit, twice a step: whatever moved the counter would cost the loop a row."""
    run, told = Run(), range(1, 7)
    sink = WeightsAndBiases(run) if given else WeightsAndBiases()
    wandb.run = None if given else run  # opened after the sink was made
    for epoch in (1, 2, 3):
        run.log({"accuracy": epoch}, step=epoch)
        sink.log(2 * epoch - 1, {"rank/mean": 1.0 / epoch})
        run.log({"loss": epoch}, step=epoch)
    sink.close()
    assert {step: (row["accuracy"], row["loss"]) for step, row in run.rows.items()} == {e: (e, e) for e in (1, 2, 3)}
    assert run.column("rank/mean") == [(told[0], 1.0), (told[2], 0.5), (told[4], 1 / 3)]
    assert not run.finished


def test_a_row_has_one_point_and_what_is_left_out_is_said_once(wandb: Fake) -> None:
    run = Run()
    sink = WeightsAndBiases(run)
    sink.log(1, {"rank/mean": 0.1})
    sink.log(2, {"rank/mean": 0.2})
    sink.log(2, {"alert/nonfinite/fc": 1.0})
    with pytest.warns(SinkWarning, match=r"some are left out there.*own_rows=True"):
        sink.log(3, {"rank/mean": 0.3})
    sink.log(4, {"rank/mean": 0.4})  # without a second warning, which would be an error here
    run.log({"loss": 1.0})
    sink.log(5, {"rank/mean": 0.5})
    run.log({"loss": 2.0})
    sink.close()
    assert run.column("rank/mean") == [(1, 0.1), (5, 0.5)]
    assert run.column("alert/nonfinite/fc") == [(2, 1.0)]  # at its own step, and not lost


def test_a_loop_that_never_passes_a_step_can_have_every_point(wandb: Fake) -> None:
    run = Run()
    sink = WeightsAndBiases(run, own_rows=True)
    for step in (1, 2, 3):
        sink.log(step, {"rank/mean": step / 8})
    run.log({"loss": 1.0})
    assert run.column("rank/mean") == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert [row for row in run.rows.values() if "loss" in row] == [{"loss": 1.0}]


def test_a_run_is_taken_for_what_it_is(wandb: Fake) -> None:
    assert isinstance(open_sink(Run()), WeightsAndBiases)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a short offline log: records of a head of 7 bytes and what it says, all in one block."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[import-not-found, unused-ignore]

    content, at = file.read_bytes(), 7
    while at + 7 <= len(content) < 32768:
        _, length, _ = struct.unpack("<IHB", content[at : at + 7])
        record = Record.FromString(content[at + 7 : at + 7 + length])
        at += 7 + length
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        yield {name: value for name, value in row.items() if name not in ("_runtime", "_timestamp")}


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_the_real_one_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    for name in ("HOME", "WANDB_CONFIG_DIR", "XDG_CONFIG_HOME", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb.teardown()
    relay = Relay(open_sink("wandb"))
    with wandb.init(project="theirs") as run:
        for epoch in (1, 2):
            run.log({"accuracy": epoch}, step=epoch)
            relay.log(10 * epoch, {"rank/mean": epoch / 8})
            relay._background.call(lambda: None)
            while relay._background._calls.qsize():
                pass
            run.log({"loss": epoch}, step=epoch)
        relay.close()
    own = WeightsAndBiases()
    own.log(3, {"rank/mean": 0.5})
    assert wandb.run is None
    own.close()
    wandb.teardown()
    found = [[row for row in _rows(file) if row] for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]
    theirs = [{"accuracy": e, "loss": e, "rank/mean": e / 8, "rank/step": 10 * e, "_step": e} for e in (1, 2)]
    assert sorted(found, key=len) == [[{"rank/mean": 0.5, "rank/step": 3, "_step": 0}], theirs]
