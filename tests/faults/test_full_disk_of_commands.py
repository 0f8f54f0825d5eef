"""The disk is full while a command runs, or a sink or a report writes: a file is named, and there is no half of one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from damage import outcome
from full_disk import full_disk

import fastrank
from fastrank.experiments import cli
from fastrank.experiments.records import Layout, Ledger
from fastrank.experiments.reports import write_history_report
from fastrank.experiments.reports.results import ReportError
from fastrank.plotting.figures import STYLE
from fastrank.sinks import TensorBoard


def test_of_event_files_half_a_record_hides_no_later_one(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink, told = TensorBoard(tmp_path / "board"), []
    for step in range(40):
        size = 40 * step if step % 2 else 10**6
        with full_disk(size):
            _, said = outcome(partial(sink.log, step, {"rank": float(step)}), OSError)
        assert said is None or "tfevents" in said
        told += [step] * (said is None)
    seen = EventAccumulator(str(tmp_path / "board")).Reload().Scalars("rank")
    assert {event.step for event in seen} >= set(told)
    assert len(told) < 40


@pytest.mark.parametrize("size", [0, 9_000])
def test_of_a_report(tmp_path, size, monkeypatch):
    """The first of its files, or the first that is large."""
    monkeypatch.setitem(STYLE, "savefig.dpi", 20)
    with fastrank.RankTracker(torch.nn.Linear(4, 5), directory=tmp_path) as tracker:
        tracker.step()
    path = write_history_report(tmp_path)
    old = path.read_bytes()
    with full_disk(size), pytest.raises(ReportError, match=r"the report cannot be written: .*File too large"):
        write_history_report(tmp_path)
    assert path.read_bytes() == old
    assert list(tmp_path.rglob(".*.tmp")) == []


def test_of_the_command_line_is_a_line(tmp_path, monkeypatch, capsys):
    torch.save({"w": torch.eye(3)}, tmp_path / "x.pt")
    out = tmp_path / "ranks.csv"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["fastrank", "analyze", str(tmp_path / "x.pt"), "--out", str(out)])
    with full_disk(10), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == f"fastrank: {out}: File too large"
    assert not out.exists()


def test_of_factors_is_a_line(tmp_path, monkeypatch, capsys):
    torch.save({"a.weight": torch.ones(40, 50)}, tmp_path / "x.pt")
    out = tmp_path / "x.safetensors"
    monkeypatch.setattr(
        "sys.argv", ["fastrank", "factorize", str(tmp_path / "x.pt"), "--error", "0.1", "--out", str(out)]
    )
    with full_disk(100), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == f"fastrank: {out}: File too large"
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


CONFIG = """
name = "tiny"
epochs = 1
model = { name = "mlp_bn", depth = 1, width = 4 }
data = { name = "digits" }
grid = { batch_size = [64], lr = [0.5], weight_decay = [0.0] }
"""


@pytest.mark.parametrize(("size", "named"), [(0, "sweep.lock"), (100, "config.toml"), (1000, "trials.draft")])
def test_of_a_sweep_that_cannot_begin(tmp_path, size, named, monkeypatch, capsys):
    """In its folder is nothing that another try would stumble over."""
    (tmp_path / "tiny.toml").write_text(CONFIG)
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["fastrank", "sweep", str(tmp_path / "tiny.toml"), "--out", str(out)])
    with full_disk(size), pytest.raises(SystemExit) as ended:
        cli.main()
    said = f"{ended.value.code}{capsys.readouterr().err}"
    assert f"fastrank: {out / named}: " in said
    assert said.count("\n") <= 1
    assert not Layout(out).ledger.exists()
    Ledger.create(out, {}, {"one": {}})
    assert [record.id for record in Ledger.open(out).trials()] == ["one"]
