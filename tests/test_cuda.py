"""What only a CUDA device can show: the same counts as on the CPU, and no step in which the host waits."""

from __future__ import annotations

import copy
import gc
import runpy
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import fastrank
from fastrank import RankTracker, Tolerance

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # What `no_waiting` asks for, and a capture that raises before anything is launched.
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature"),
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty"),
]

TOLERANCES = [Tolerance(), Tolerance(0.04), Tolerance(0.1, "spectral"), Tolerance(0.5, "absolute")]


@pytest.fixture(autouse=True)
def _compiled_when_launched(monkeypatch):
    monkeypatch.setattr("fastrank.measuring.compilation.AHEAD", False)  # what a capture finds must not hang on it


@contextmanager
def no_waiting():
    """Inside, an operation that makes the host wait for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def spectrum_matrix(r, n, seed, floor=1e-5):
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(r, r, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(n, r, generator=generator, dtype=torch.float64)).Q
    return (u * torch.logspace(0, torch.tensor(floor).log10().item(), r, dtype=torch.float64) @ v.mT).float()


@pytest.mark.parametrize("tolerance", TOLERANCES, ids=str)
def test_bounds_are_those_of_the_cpu(tolerance):
    matrices = [spectrum_matrix(r, r + 5, r) for r in (1, 2, 7, 33, 64, 100, 257)] + [torch.zeros(4, 4)]
    on_cpu = fastrank.linalg.rank_bounds(matrices, tolerance)
    on_cuda = fastrank.linalg.rank_bounds([m.cuda() for m in matrices], tolerance)
    assert on_cuda.certified.all()
    assert torch.equal(on_cpu.lower, on_cuda.lower.cpu())


def test_neighbours_of_a_nan_are_unharmed():
    stack = torch.stack([spectrum_matrix(50, 60, i) for i in range(4)]).cuda()
    before = fastrank.linalg.rank_bounds(stack)
    stack[2, 3, 4] = torch.nan
    after = fastrank.linalg.rank_bounds(stack)
    assert after.lower.tolist() == [*before.lower[:2].tolist(), -1, before.lower[3].item()]


def test_counting_never_waits_and_can_be_captured():
    """A graph that has captured the count follows the weights, which change in place."""
    matrices = [spectrum_matrix(r, n, r).cuda() for r, n in ((7, 9), (60, 64), (100, 300), (520, 700))]
    first = fastrank.linalg.rank_bounds(matrices, resolve=False)
    with no_waiting():
        again = fastrank.linalg.rank_bounds(matrices, resolve=False)
    assert torch.equal(first.lower, again.lower)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = fastrank.linalg.rank_bounds(matrices, resolve=False)
    for matrix in matrices:
        matrix[: len(matrix) // 2] = 0
    graph.replay()
    now = fastrank.linalg.rank_bounds(matrices, resolve=False)
    assert not torch.equal(now.lower, first.lower)
    for a, b in zip(captured, now, strict=True):
        assert torch.equal(a, b)


def test_capturing_what_was_never_called_names_the_remedy():
    matrix = torch.eye(5, device="cuda")
    with pytest.raises(RuntimeError, match="call this once"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        fastrank.linalg.rank_bounds([matrix], resolve=False)


def test_a_tolerance_that_only_a_capture_has_seen_is_counted_all_the_same():
    matrix = spectrum_matrix(40, 50, 0)
    there, tolerance = [matrix.cuda()], Tolerance(0.04)
    expected = fastrank.linalg.rank_bounds(matrix, tolerance).lower.item()
    fastrank.linalg.rank_bounds(there, resolve=False)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        fastrank.linalg.rank_bounds(there, tolerance, resolve=False)
    assert fastrank.linalg.rank_bounds(there, tolerance, resolve=False).lower == expected


@pytest.mark.parametrize(("rows", "cols"), [(1024, 1024), (768, 3072), (4096, 4096)])
def test_large_matrices_are_counted_by_many_programs(rows, cols):
    """tau midway between two singular values: nearer to one, 1e-3 of tau^2 is what a count at r = 4096 leaves open."""
    sigma = torch.logspace(0, -5, rows, dtype=torch.float64)
    norm = sigma.norm()
    rank = int((sigma > 1e-3 * norm).sum())
    tau = (sigma[rank - 1] * sigma[rank]).sqrt()
    moved = (2**-24 + 1e-10) * norm  # by rounding to FP32, and by making the matrix in FP64
    assert ((sigma - tau).abs() > 20 * moved).all()
    generator = torch.Generator("cuda").manual_seed(rows)
    left, right = (
        torch.linalg.qr(torch.randn(n, rows, generator=generator, device="cuda", dtype=torch.float64)).Q
        for n in (rows, cols)
    )
    matrix = ((left * sigma.cuda()) @ right.mT).float()
    bounds = fastrank.linalg.rank_bounds(matrix, Tolerance((tau / norm).item()), resolve=False)
    assert (bounds.lower, bounds.upper) == (rank, rank)


def test_memory_is_that_of_the_workspace(mlp):
    tracker = RankTracker(mlp.cuda())
    gc.collect()  # or what other tests have left goes while this one measures
    before = torch.cuda.memory_allocated()
    tracker.step()
    grams_and_factors = 3 * (1 + 2 * 2) * 32 * 32 * 8  # a shift pair for the rank and one for sigma_1
    assert tracker.memory()["workspace"] > grams_and_factors  # bases and sketches come on top
    assert torch.cuda.memory_allocated() - before >= tracker.memory()["workspace"]


def test_a_tracked_step_never_waits(mlp):
    """After the first step, which looks for the top of the spectrum from scratch."""
    model = mlp.cuda()
    optimizer = fastrank.SGD(model.parameters(), lr=0.1, weight_decay=1e-2)
    tracker = RankTracker(model, optimizer, tolerance=TOLERANCES)
    inputs = torch.randn(16, 8, device="cuda")
    targets = torch.zeros(16, dtype=torch.int64, device="cuda")

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    step()
    with no_waiting():
        for _ in range(600):  # several blocks of the ring
            step()
    assert tracker.to_pandas().step.tolist() == [s for s in range(1, 602) for _ in range(3)]


def test_history_of_a_run_is_that_of_the_cpu(mlp, train):
    """The same weights, measured on either device."""
    optimizer = fastrank.SGD(mlp.parameters(), lr=0.5, weight_decay=0.05)
    there = copy.deepcopy(mlp).cuda()
    on_cpu, on_cuda = RankTracker(mlp), RankTracker(there)
    for i in range(30):
        train(mlp, optimizer, 1, start=i)
        there.load_state_dict(mlp.state_dict())
        on_cpu.step()
        on_cuda.step()
    a, b = on_cpu.to_pandas(), on_cuda.to_pandas()
    assert (b.rank_lower <= a.rank_lower).all()
    assert (a.rank_upper <= b.rank_upper).all()
    known = b.spectral_norm.notna()
    assert known.mean() > 0.9
    assert ((a.spectral_norm - b.spectral_norm).abs() / a.spectral_norm)[known].max() < 1e-5


@pytest.mark.parametrize("fused", [False, True])
def test_overflow_leaves_no_trace(mlp, fused):
    model = mlp.cuda()
    optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    tracker = RankTracker(model, optimizer)
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
    for poison in (True, False, True, False):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(4, 8, device="cuda")).sum()).backward()
        if poison:
            model[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        if poison:
            assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert tracker.to_pandas().step.unique().tolist() == [1, 2]


def test_a_whole_training_step_with_its_ranks_in_one_graph(mlp):
    """Forward, backward, optimizer and tracking: what replays record and train is what steps do without a graph."""
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).cuda()
    targets = torch.arange(16, device="cuda") % 3
    runs = []
    for captured in (False, True):
        model = copy.deepcopy(mlp).cuda()
        optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
        tracker = RankTracker(model, optimizer, tolerance=TOLERANCES)

        def step(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                step()
            assert tracker.latest()["0.weight"]["step"] == 3, "what is captured is not run"
        with no_waiting():
            for number in range(600):  # several blocks of the ring
                if captured:
                    graph.replay()
                    tracker.replayed()
                else:
                    step()
                if number == 5:
                    early = [p.detach().clone() for p in model.parameters()]
        runs.append((early, tracker.to_pandas()))
        last = [row for _, row in sorted(tracker.latest().items())]
        norms = [model[i].weight.detach().double().norm().item() for i in (0, 3, 5)]
        assert [row["frobenius_norm"] for row in last] == pytest.approx(norms, rel=1e-12)
        for tolerance in [t for t in TOLERANCES if t.relative_to != "spectral"]:  # whose sigma_1 is found differently
            suffix = "" if tolerance == TOLERANCES[0] else f"@{tolerance.suffix}"
            bounds = fastrank.linalg.rank_bounds([model[i].weight for i in (0, 3, 5)], tolerance, resolve=False)
            assert [row[f"rank_lower{suffix}"] for row in last] == bounds.lower.tolist()
            assert [row[f"rank_upper{suffix}"] for row in last] == bounds.upper.tolist()
    (expected, by_steps), (parameters, by_replays) = runs
    assert by_replays.step.tolist() == [s for s in range(1, 604) for _ in range(3)]
    assert by_replays.name.tolist() == by_steps.name.tolist()
    # A graph's products may be summed in another order: rounding moves weights by less than 1e-6 in nine steps, and by
    # anything in 600, where it may decide what a ReLU lets through. One step moves them by 1e-3 and more.
    for a, b in zip(expected, parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
    first = by_steps.step <= 9
    assert by_replays.frobenius_norm[first].tolist() == pytest.approx(by_steps.frobenius_norm[first].tolist(), rel=2e-5)


def test_a_forgotten_replay_is_noticed(mlp):
    tracker = RankTracker(mlp.cuda())
    for _ in range(3):
        tracker.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tracker.step()
        tracker.step()
    graph.replay()
    with pytest.raises(fastrank.HistoryError, match="2 more steps than were counted"):
        tracker.latest()
    tracker.replayed(2)
    assert tracker.to_pandas().step.unique().tolist() == [1, 2, 3, 4, 5]


def test_the_example_of_a_graph_runs(capsys):
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "cuda_graph.py"))
    assert capsys.readouterr().out.count("step 1003: rank") == 3
