"""Memory runs out at each allocation: the error says so, and what comes after it is right."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from damage import outcome
from made_history import make, record, steps_in, steps_of
from no_memory import NoMemory, at_every_allocation
from system_calls import status_of
from torch import nn

import fastrank
from fastrank import RankTracker, linalg
from fastrank.history import HistoryWarning

OPTIONS = {
    "plain": {},
    "spectra": {"spectrum": ["effective_rank", "singular_values"], "energy": [0.9]},
    "all": {"of": ("weight", "gradient", "update"), "initial": True},
}


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5))


def train(model, step):
    """A step of training that depends on its number alone."""
    with torch.no_grad():
        for parameter in model.parameters():
            generator = torch.Generator().manual_seed(step)
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def rows(tracker, *steps):
    return [row for row in tracker.to_arrow().to_pylist() if row["step"] in steps and "update/" not in row["name"]]


def rounded(value):
    if isinstance(value, list):
        return list(map(rounded, value))
    return f"{value:.9g}" if isinstance(value, float) else value


@pytest.mark.parametrize("options", OPTIONS)
def test_of_measurements(model, options):
    """The step whose measurement fails has no row, or the right one; the others have theirs."""
    check_measurements(model, OPTIONS[options], least=5, step=2 if options == "plain" else 5)


def test_of_measurements_by_pytorch(model, counting):
    check_measurements(model, {}, least=5, step=7)


def check_measurements(model, options, *, least, step):
    trackers = []

    def begin():
        trackers[:] = [RankTracker(model, **options)]

    def two_steps():
        for number in (1, 2):
            train(model, number)
            trackers[0].step(step=number)

    begin()
    two_steps()
    train(model, 3)
    trackers[0].step()
    expected = rows(trackers[0], 1, 2, 3)
    before = {name: x.clone() for name, x in model.named_parameters()}

    def check(result):
        train(model, 3)
        trackers[0].step(step=3)
        recorded = trackers[0].to_arrow()["step"].to_pylist()
        assert 3 in recorded
        found, due = rows(trackers[0], 1, 2, 3), [row for row in expected if row["step"] in recorded]
        assert len(found) == len(due)
        # Norms are found by iterations that begin where those of the last row have ended.
        assert [list(map(rounded, row.values())) for row in found] == [list(map(rounded, row.values())) for row in due]
        assert all(torch.equal(x, before[name]) for name, x in model.named_parameters())
        trackers[0].close()
        begin()

    begin()
    at_every_allocation(two_steps, check, least, step)


def test_of_making_a_tracker(model, tmp_path):
    """Nothing is left of it: no hook of the optimizer, and no lock of the folder."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def make_one():
        more = {"track": {"product": lambda model: model[1].weight @ model[0].weight}, "directory": tmp_path}
        return RankTracker(model, optimizer, of=("weight", "update"), initial=True, **more)

    def check(tracker):
        assert all(module.training for module in model.modules())
        if tracker is not None:
            tracker.close()
        tracker = RankTracker(model, optimizer, directory=tmp_path, overwrite=True)
        train(model, 1)
        optimizer.step()
        assert tracker.to_arrow()["step"].to_pylist() == [1, 1]
        tracker.close()

    at_every_allocation(make_one, check, least=3)


def made(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def lowrank():
    u, s, v, *_ = linalg.svd_lowrank(low(), 4)
    return u * s @ v


def low():
    generator = torch.Generator().manual_seed(1)
    return made(generator, 20, 3) @ made(generator, 3, 12)


FUNCTIONS = {
    "rank_bounds": lambda: torch.stack(list(linalg.rank_bounds(low()))),
    "matrix_rank": lambda: linalg.matrix_rank(low()),
    "svd_lowrank": lowrank,
    "spectral_norm": lambda: linalg.spectral_norm(low()),
    "analyze": lambda: torch.tensor(fastrank.analyze({"w": low()})["rank_lower"].tolist()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_a_function(name):
    expected = FUNCTIONS[name]()

    def check(result):
        for found in (result, FUNCTIONS[name]()):
            assert found is None or torch.equal(found, expected)

    at_every_allocation(FUNCTIONS[name], check, least=3, step=1 if name != "analyze" else 5)


def test_of_writing_a_history(tmp_path):
    """Rows stay in memory, and are written by the next flush."""
    at, failed = 0, True
    while failed:
        folder = tmp_path / f"{at}"
        history = make(folder)
        record(history, 1, 2)
        with NoMemory(at) as memory:
            _, said = outcome(history.flush, MemoryError, RuntimeError)
        failed = memory.failed
        assert failed == (said is not None)
        assert steps_in(folder) == ([] if failed else [1, 2])
        record(history, 3)
        history.close()
        assert steps_in(folder) == steps_of(history.to_arrow()) == [1, 2, 3]
        at += 1
    assert at > 10


def test_of_the_alarm_is_a_warning(tmp_path):
    history = make(tmp_path)
    record(history, 1)
    history.last()
    with NoMemory(0), pytest.warns(HistoryWarning, match="kept in memory and tried again"):
        history._on_alarm()
    history.close()
    assert steps_in(tmp_path) == [1]


def test_of_a_process_that_may_have_no_more(tmp_path):
    """By the system's own refusal: in a forked process, whose memory is limited to what it has."""
    large, small = torch.ones(3000, 3000, dtype=torch.float64), nn.Linear(4, 4)
    linalg.rank_bounds(large[:2, :2])

    def run_out():
        tracker = RankTracker(small, directory=tmp_path)
        tracker.step()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, -1))
        _, said = outcome(lambda: linalg.rank_bounds(large), MemoryError, RuntimeError)
        assert said is not None
        assert not said or "llocate" in said
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        tracker.step()
        tracker.close()

    assert status_of(run_out) == 0
    assert fastrank.read_history(tmp_path)["step"].to_pylist() == [1, 2]


def test_of_a_command_is_a_line(tmp_path, monkeypatch, capsys):
    from fastrank.experiments import cli

    torch.save({"w": torch.eye(3)}, tmp_path / "x.pt")
    monkeypatch.setattr("sys.argv", ["fastrank", "analyze", str(tmp_path / "x.pt")])
    for at in range(0, 20, 7):
        with NoMemory(at) as memory, pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err
        assert memory.failed
        assert ended.value.code == 1
        assert said.startswith("fastrank: ")
        assert said.count("\n") == 1
