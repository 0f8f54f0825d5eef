"""The benchmark of stacks: that it still runs, and counts what it says it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydantic", reason="sweeps need pydantic")
import throughput


def test_both_ways_are_timed_and_counted_as_trial_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = str(Path(throughput.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", bench)  # the workers find it there
    monkeypatch.setenv("WORKERS", "1")  # and these are as they were when it is over
    monkeypatch.setenv("SECONDS", "1")
    monkeypatch.setattr(throughput, "SECONDS", 0.2)
    monkeypatch.setattr(throughput, "TURNS", 1)
    monkeypatch.setattr(throughput, "STACK", {"cpu": 4})
    monkeypatch.setattr(throughput, "WORKLOADS", {"tiny": ({"model": {"name": "mlp_bn", "depth": 1, "width": 8}}, 64)})
    monkeypatch.setattr(throughput, "available_cores", lambda: 1)
    alone, stacked = throughput.measure("tiny", "cpu")
    assert (alone["ratio"], alone["wall_ms"]) == (1, alone["baseline_ms"])
    assert stacked["provider"] == "stacks of 4, 1 process"
    # So small a step is all overhead, which four trials share: a time of the whole stack would be no less than alone.
    assert stacked["ratio"] == pytest.approx(stacked["wall_ms"] / alone["wall_ms"])
    assert stacked["ratio"] < 0.8
    assert stacked["note"] == f"{1e3 / stacked['wall_ms']:.0f} trial-steps a second"
