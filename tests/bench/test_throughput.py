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
    monkeypatch.setattr(throughput, "STACK", {"cpu": 4})
    monkeypatch.setattr(throughput, "WORKLOADS", {"tiny": ({"model": {"name": "mlp_bn", "depth": 1, "width": 8}}, 64)})
    monkeypatch.setattr(throughput, "available_cores", lambda: 1)
    ((alone, stacked),) = throughput.measure("tiny", "cpu", turns=1, budget=0.2)
    assert (alone["ratio"], alone["wall_ms"]) == (1, pytest.approx(alone["baseline_ms"]))
    assert stacked["provider"] == "stacks of 4, 1 process"
    # So small a step is all overhead, which four trials share: a time of the whole stack would be no less than alone.
    assert stacked["ratio"] == pytest.approx(stacked["wall_ms"] / alone["wall_ms"])
    assert stacked["ratio"] < 0.8
    assert stacked["note"] == f"{1e3 / stacked['wall_ms']:.0f} trial-steps a second"


def test_there_are_rows_after_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all turns until then, in the order in which both ways take them; what stops the third loses only that."""
    times = iter([(4e-3, 2e-3), (6e-3, 1e-3)])
    spent: list[float] = []

    def seconds(jobs: list[throughput.Job], device: str, budget: float) -> float:
        spent.append(budget)
        if len(spent) % 2:
            seconds.turn = next(times)  # type: ignore[attr-defined]
        return seconds.turn[len(jobs[0].specs) > 1]  # type: ignore[attr-defined]

    monkeypatch.setattr(throughput, "seconds", seconds)
    monkeypatch.setattr(throughput, "available_cores", lambda: 1)
    measured = throughput.measure("digits-mlp-5-100-b8", "cpu", turns=3, budget=0.25)
    (alone, first), (again, second) = next(measured), next(measured)
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(measured)
    assert set(spent) == {0.25}
    assert (first["rounds"], first["ratio"], first["wall_ms"]) == (1, 0.5, pytest.approx(2.0))
    assert (second["rounds"], second["ratio"], second["wall_ms"]) == (2, pytest.approx(1 / 3), pytest.approx(1.5))
    assert (second["ratio_p20"], second["ratio_p80"]) == (pytest.approx(1 / 6), 0.5)
    assert (second["baseline_ms"], again["wall_ms"], again["ratio"]) == (pytest.approx(5.0), pytest.approx(5.0), 1)
    assert (alone["provider"], first["provider"]) == ("one at a time", "stacks of 32, 1 process")
