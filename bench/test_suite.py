"""The suite: every operation, workload and provider that was asked for, in as many visits.

The first visit of a row is pytest-benchmark's; later ones add their rounds to the row in the results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import results
import timing
import torch
from harness import Harness, Skipped
from operation import Operation
from providers import Provider
from timing import Call


def test_row(
    benchmark: Any, harness: Harness, results_path: Path, operation: Operation, workload: str, provider: Provider
) -> None:
    benchmark.group = f"{operation.name} | {workload}"
    _end_if_lost(harness.device)

    def wall(call: Call, setup: Call | None, rounds: int, calls: int) -> list[float]:
        benchmark.pedantic(call, setup=setup, rounds=rounds, iterations=calls)
        return [seconds * 1e3 for seconds in benchmark.stats.stats.data]

    try:
        row = harness.row(operation, workload, provider, wall)
    except Skipped as reason:
        pytest.skip(f"{provider.name}: {reason}")
    if row["status"] == "failed":
        _end_if_lost(harness.device)
    results.save(results_path, [row])
    benchmark.extra_info |= {
        k: row[k] for k in ("error", "device_ms", "device_timer", "ratio", "roof_share") if k in row
    }
    if row["status"] == "failed":
        pytest.skip(f"{provider.name}: {row['note']}")
    _judge(operation, provider, row)


def test_again(harness: Harness, results_path: Path, operation: Operation, workload: str, provider: Provider) -> None:
    _end_if_lost(harness.device)
    try:
        row = harness.again(operation, workload, provider)
    except Skipped as reason:
        pytest.skip(f"{reason}")
    results.save(results_path, [row])
    _judge(operation, provider, row)


def _end_if_lost(device: torch.device) -> None:
    """Ends the suite where one row has cost this process its device:
    those after it would fail for no fault of their own."""
    if why := timing.lost(device):
        pytest.exit(f"{device} does nothing more for this process, so that no row can follow: {why}", returncode=1)


def _judge(operation: Operation, provider: Provider, row: dict[str, Any]) -> None:
    """A wrong row is a failure of the suite where a right answer was promised, and else a finding."""
    if row["status"] == "wrong":
        why = row.get("note") or f"not timed, its answer is wrong: {row['error']:.3g} {operation.unit}"
        (pytest.fail if provider.strict else pytest.skip)(f"{provider.name}: {why}")
