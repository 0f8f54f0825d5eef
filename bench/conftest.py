"""The front door: `pytest bench/`, with pytest-benchmark.

    pytest bench/ [--workload NAME ...] [--provider NAME ...] [--operation NAME ...] [--device cpu|cuda] [--quick]
                  [--headline] [--ours | --rivals]

Rows go to `bench/results/<device>.csv` as they are measured. All of pytest-benchmark's options work,
`--benchmark-compare` and `--benchmark-autosave` among them; its timer synchronises the device.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import environment
import pytest
import results
import roofs
import timing
import torch
from harness import FULL, QUICK, Budget, Harness
from operation import Operation
from operations import OPERATIONS
from providers import Provider


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrank benchmarks")
    for name in ("operation", "workload", "provider"):
        group.addoption(f"--{name}", action="append", help=f"only this {name}; may be repeated (default: all)")
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    group.addoption("--dtype", default="float32", help="of the matrices (default: float32)")
    group.addoption("--quick", action="store_true", help="a small set of workloads, and less time for each")
    group.addoption("--headline", action="store_true", help="only workloads by which the project's goals are judged")
    group.addoption("--ours", action="store_true", help="only fastrank's own providers")
    group.addoption("--rivals", action="store_true", help="only the others")
    group.addoption("--seconds", type=float, help="of timing a row, in one visit (default: 1; quick: 0.2)")
    group.addoption("--longest", type=float, help="seconds of a call; a slower one is skipped (default: 30; quick: 4)")
    group.addoption(
        "--visits", type=int, default=3, help="times that each row is timed, a whole pass apart (default: 3)"
    )
    group.addoption("--deadline", type=float, default=float("inf"), help="start no row after so many seconds")
    group.addoption("--results", type=Path, help="file of the rows (default: bench/results/<device>.csv)")


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its timer
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "default")  # rivals warn of what they like
    config.stash[STARTED] = time.monotonic()
    config.option.benchmark_timer = f"{timing.__name__}.{timing.clock.__name__}"


STARTED = pytest.StashKey[float]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "provider" not in metafunc.fixturenames:
        return
    option = metafunc.config.option
    later = range(2, option.visits + 1)
    visits = [f" | visit {visit}" for visit in later] if metafunc.function.__name__ == "test_again" else [""]
    rows = [
        pytest.param(operation, workload, provider, id=f"{operation.name} | {workload} | {provider.name}{visit}")
        for visit in visits
        for operation, workload, provider in by_importance(option.headline)
        if _asked(option, operation, workload, provider)
    ]
    metafunc.parametrize(("operation", "workload", "provider"), rows)


def by_importance(headline: bool) -> list[tuple[Operation, str, Provider]]:
    """All rows, or those of the headline's workloads, the most telling first, so that a deadline loses the least.

    Ours and the telling rivals on every operation's first workload, then on its second, and so on; then those of them
    that take long to prepare, and ours by integers whatever the device. The other rivals follow in the same order.
    """
    rows = []
    for operation in OPERATIONS.values():
        for place, workload in enumerate(operation.headline if headline else operation.workloads):
            for provider in operation.providers:
                later = provider.compiled or provider.kernels == "integers"
                rank = (not (provider.ours or provider.telling), later, place)
                rows.append((rank, (operation, workload, provider)))
    return [row for _, row in sorted(rows, key=lambda ranked: ranked[0])]  # stable: else as they are listed


def _asked(option: Any, operation: Operation, workload: str, provider: Provider) -> bool:
    named = {"operation": operation.name, "workload": workload, "provider": provider.name}
    if any(getattr(option, kind) and name not in getattr(option, kind) for kind, name in named.items()):
        return False
    if (option.ours and not provider.ours) or (option.rivals and provider.ours):
        return False
    return not option.quick or bool(option.workload) or workload in operation.quick


@pytest.fixture(scope="session")
def results_path(request: pytest.FixtureRequest) -> Path:
    return request.config.option.results or environment.results_file(torch.device(request.config.option.device))


@pytest.fixture(scope="session")
def harness(request: pytest.FixtureRequest, results_path: Path) -> Harness:
    """The session's harness, once the device's roofs are measured."""
    option = request.config.option
    device = torch.device(option.device)
    default = QUICK if option.quick else FULL
    budget = Budget(option.seconds or default.seconds, option.longest or default.longest)
    where = environment.columns(device)
    measured = roofs.measure(device)
    results.save(results_path, [row | where for row in measured], all_of="roof")
    remeasure = lambda: roofs.Roofs.of(roofs.measure(device))  # noqa: E731
    return Harness(device, getattr(torch, option.dtype), budget, roofs.Roofs.of(measured), remeasure)


@pytest.fixture(autouse=True)
def deadline(request: pytest.FixtureRequest) -> None:
    if time.monotonic() - request.config.stash[STARTED] > request.config.option.deadline:
        pytest.skip(f"after the deadline of {request.config.option.deadline:.0f} s")
