"""RankTracker: what it records is what torch's FP64 singular values say, at the steps it was asked for."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import fastrank
from fastrank import RankTracker, Tolerance
from fastrank.metrics import effective_rank, energy_rank, nuclear_norm, participation_ratio


def truth(matrix, tolerance=Tolerance()):  # noqa: B008 (frozen)
    sigma = torch.linalg.svdvals(matrix.detach().double())
    tau = {"frobenius": sigma.norm(), "spectral": sigma[0], "absolute": 1.0}[tolerance.relative_to] * tolerance.value
    return sigma, int((sigma > tau).sum())


def assert_row(row, matrix):
    sigma, rank = truth(matrix)
    assert row["rank_lower"] == row["rank_upper"] == rank
    assert row["rows"], row["cols"] == matrix.shape
    assert row["spectral_norm"] == pytest.approx(sigma[0].item(), rel=1e-5)
    assert row["frobenius_norm"] == pytest.approx(sigma.norm().item(), rel=1e-12)
    assert row["stable_rank"] == pytest.approx((sigma.square().sum() / sigma[0] ** 2).item(), rel=2e-5)
    assert row["status"] == "OK"


def test_every_step_of_a_run_is_recorded_and_true(mlp, train, counting):
    optimizer = fastrank.SGD(mlp.parameters(), lr=0.5, weight_decay=0.05)
    tracker = RankTracker(mlp, optimizer)
    for i in range(40):
        train(mlp, optimizer, 1, start=i)
        latest = tracker.latest()
        assert list(latest) == tracker.names == ["0.weight", "3.weight", "5.weight"]
        for name, row in latest.items():
            assert row["step"] == i + 1
            assert_row(row, mlp.get_parameter(name))
    history = tracker.to_pandas()
    assert history.step.tolist() == [s for s in range(1, 41) for _ in range(3)]
    assert history.name.tolist() == tracker.names * 40
    assert tracker.full_rank == (8 + 12 + 3) / 3


def test_a_rank_that_falls_is_followed(mlp, counting):
    """Planted: each call leaves one singular value fewer above the threshold."""
    tracker = RankTracker(mlp, include=["3.weight"])
    u, s, vh = torch.linalg.svd(mlp[3].weight.detach().double())
    for rank in range(12, -1, -1):
        with torch.no_grad():
            mlp[3].weight.copy_(u[:, :rank] * s[:rank] @ vh[:rank])
        tracker.step()
        row = tracker.latest()["3.weight"]
        assert row["rank_lower"] == row["rank_upper"] == rank
    assert row["stable_rank"] == row["spectral_norm"] == row["frobenius_norm"] == 0


def test_cadence(mlp, train):
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    tracker = RankTracker(mlp, optimizer, every=5, spectrum=["effective_rank"], spectrum_every=10)
    train(mlp, optimizer, 23)
    history = tracker.to_pandas().query("name == '0.weight'")
    assert history.step.tolist() == [1, 5, 10, 15, 20]
    assert history.step[history.effective_rank.notna()].tolist() == [1, 10, 20]


def test_a_due_spectrum_is_recorded_between_the_recorded_steps(mlp, train):
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    tracker = RankTracker(mlp, optimizer, every=4, spectrum=["nuclear_norm"], spectrum_every=3)
    train(mlp, optimizer, 9)
    assert tracker.to_pandas().step.unique().tolist() == [1, 3, 4, 6, 8, 9]


def test_several_tolerances(mlp, train, counting):
    tolerances = [Tolerance(), Tolerance(0.3), Tolerance(0.5, "spectral"), Tolerance(0.4, "absolute")]
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    tracker = RankTracker(mlp, optimizer, tolerance=tolerances)
    train(mlp, optimizer, 5)
    for name, row in tracker.latest().items():
        for tolerance, suffix in zip(tolerances, ["", "@0.3", "@0.5-spectral", "@0.4-absolute"], strict=True):
            _, rank = truth(mlp.get_parameter(name), tolerance)
            assert row[f"rank_lower{suffix}"] == row[f"rank_upper{suffix}"] == rank


def test_whole_spectrum(mlp, counting):
    names = ["effective_rank", "nuclear_norm", "participation_ratio", "singular_values"]
    tracker = RankTracker(mlp, spectrum=names, energy=[0.9, 0.5])
    tracker.step()
    for name, row in tracker.latest().items():
        sigma, _ = truth(mlp.get_parameter(name))
        assert (row["energy_rank"], row["energy_rank@0.5"]) == (energy_rank(sigma, 0.9), energy_rank(sigma, 0.5))
        assert row["singular_values"] == pytest.approx(sigma.tolist(), abs=1e-7)
        for metric in (effective_rank, nuclear_norm, participation_ratio):
            assert row[metric.__name__] == pytest.approx(metric(sigma).item(), rel=1e-6)


WIDE = (torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float16, 1e-3), (torch.float16, 1e3), *((d, s) for d in WIDE for s in (1e-30, 1.0, 1e30))],
)
def test_dtype_and_scale_do_not_matter(mlp, dtype, scale, counting):
    mlp.to(dtype)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.mul_(scale)
    tracker = RankTracker(mlp)
    tracker.step()
    for name, row in tracker.latest().items():
        sigma, rank = truth(mlp.get_parameter(name))
        assert row["rank_lower"] == row["rank_upper"] == rank
        assert row["stable_rank"] == pytest.approx(((sigma / sigma[0]) ** 2).sum().item(), rel=2e-5)


@pytest.mark.parametrize("scale", [2.0**-1060, 2.0**1022])
def test_ratios_of_a_spectrum_beyond_the_range_of_fp64(scale):
    """Singular values and norms are Inf or rounded there; ranks and ratios are those of the same matrix at one."""
    model = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(scale)
        model.weight[0, 0] = -scale
    tracker = RankTracker(model, spectrum=["effective_rank", "participation_ratio", "singular_values"])
    tracker.step()
    row = tracker.latest()["weight"]
    sigma = torch.linalg.svdvals(model.weight.detach() / scale)
    assert row["rank_lower"] == row["rank_upper"] == 2
    assert row["effective_rank"] == pytest.approx(effective_rank(sigma).item(), rel=1e-6)
    assert row["participation_ratio"] == pytest.approx(participation_ratio(sigma).item(), rel=1e-6)
    assert row["stable_rank"] == pytest.approx((sigma.square().sum() / sigma[0] ** 2).item(), rel=1e-5)


def test_weights_that_jump_are_noticed_at_once(mlp, counting):
    """A reloaded checkpoint: the warm start is worthless, and the next row is true all the same."""
    tracker = RankTracker(mlp)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in mlp.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        tracker.step()
        for name, row in tracker.latest().items():
            assert_row(row, mlp.get_parameter(name))


def test_a_parameter_may_be_replaced_moved_and_converted(mlp):
    tracker = RankTracker(mlp)
    tracker.step()
    mlp[3].weight = nn.Parameter(torch.eye(12))
    tracker.step()
    assert tracker.latest()["3.weight"]["stable_rank"] == pytest.approx(12)
    mlp.double()
    tracker.step()
    assert_row(tracker.latest()["0.weight"], mlp[0].weight)


def test_a_parameter_that_left_the_model_is_named(mlp):
    tracker = RankTracker(mlp)
    mlp[3].weight = None
    with pytest.raises(RuntimeError, match=r"'3\.weight' is no longer part of the model"):
        tracker.step()


# PyTorch's compiler imports something that PyTorch itself deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_step_is_tracked(mlp, train):
    twin = [p.detach().clone() for p in mlp.parameters()]
    optimizer = fastrank.SGD(mlp.parameters(), lr=0.1)
    tracker = RankTracker(mlp, optimizer)
    optimizer.step = torch.compile(optimizer.step, backend="eager")
    train(mlp, optimizer, 3)
    assert tracker.to_pandas().step.unique().tolist() == [1, 2, 3]
    assert not torch.equal(twin[0], mlp[0].weight)


def test_close_stops_following(mlp, train):
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    tracker = RankTracker(mlp, optimizer)
    train(mlp, optimizer, 2)
    tracker.close()
    train(mlp, optimizer, 2)
    assert tracker.to_pandas().step.max() == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tolerance": 1e-3}, TypeError, "tolerance"),
        ({"tolerance": []}, TypeError, "tolerance"),
        ({"tolerance": [Tolerance(), Tolerance()]}, ValueError, "twice"),
        ({"every": 0}, ValueError, "every: must be at least 1, not 0"),
        ({"every": 1.5}, TypeError, "every"),
        ({"flush_every": 0}, ValueError, "flush_every: must be above 0 seconds, not 0"),
        ({"flush_every": float("nan")}, ValueError, "flush_every"),
        ({"flush_every": "1"}, TypeError, "flush_every: expected a number of seconds"),
        ({"spectrum": ["entropy"]}, ValueError, "unknown 'entropy'"),
        ({"spectrum": "effective_rank"}, TypeError, "spectrum"),
        ({"include": ["nothing.*"]}, ValueError, "nothing to track"),
        ({"include": "3.weight"}, TypeError, "include"),
        ({"select": "best"}, ValueError, "select"),
        ({"optimizer": "sgd"}, TypeError, "optimizer"),
    ],
)
def test_bad_arguments_are_named(mlp, arguments, error, message):
    with pytest.raises(error, match=message):
        RankTracker(mlp, **arguments)


def test_latest_before_the_first_step_is_empty(mlp):
    tracker = RankTracker(mlp)
    assert tracker.latest() == {}
    assert tracker.to_arrow().num_rows == 0


def test_a_captured_step_is_always_measured(mlp, captured, monkeypatch):
    """A graph cannot leave out at one replay what it does at another."""
    tracker = RankTracker(mlp, every=5)
    tracker.step()
    rows = []
    monkeypatch.setattr(tracker._history, "append", lambda *row, claim: rows.append(row))
    tracker.step()
    assert not rows
    with captured():
        tracker.step()
    assert len(rows) == 1


def test_a_whole_spectrum_cannot_be_captured(mlp, captured):
    """It waits for the host. Replays would pass over the steps where it is due, so the capture says so."""
    tracker = RankTracker(mlp, spectrum=["nuclear_norm"], spectrum_every=100)
    tracker.step()
    with captured(), pytest.raises(RuntimeError, match=r"spectrum: nuclear_norm cannot be captured .* a second one"):
        tracker.step()


@pytest.mark.skipif(torch.cuda.is_available(), reason="test_cuda.py runs it")
def test_the_example_of_a_graph_says_what_it_needs():
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        runpy.run_path(str(Path(__file__).parents[2] / "examples" / "cuda_graph.py"))
