"""Matrices that ranks share out have the rows of whole ones: with threads for ranks on a CPU, and on a GPU where there
is one; and a sharded model of one process has those of an unsharded one."""

from __future__ import annotations

import pytest
import torch
from thread_ranks import in_threads
from torch import nn
from world_of_one import world_of_one

from fastrank import RankTracker, Tolerance
from fastrank.measuring import Measurer, columns
from fastrank.sharing import Holding, SharedMeasurer, Span, make_plan
from fastrank.streams import OwnStream
from fastrank.weights import Source
from fastrank.weights.pieces import Piece

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])]
TOLERANCES = (Tolerance(0.02), Tolerance(0.3, "spectral"))
SPECTRUM = ("effective_rank", "singular_values")
RANKS = 3


def matrices_on(device):
    torch.manual_seed(0)
    scales = torch.linspace(0, -9, 24).exp()
    shapes = {"square": (24, 24), "long": (24, 900), "tall": (700, 24), "thin": (2, 90), "zero": (24, 40)}
    found = {name: torch.randn(shape) for name, shape in shapes.items()}
    found = {name: torch.linalg.qr(x.mT if len(x) < x.shape[1] else x).Q[:, :24] for name, x in found.items()}
    found = {name: x * scales[: x.shape[1]] for name, x in found.items()}
    found = {name: (x.mT if shapes[name][0] < shapes[name][1] else x).contiguous() for name, x in found.items()}
    found["zero"].zero_()
    found["bad"] = torch.full((5, 60), torch.nan)
    found["half"] = found["long"].bfloat16()
    found["double"] = found["square"].double()
    return {name: x.to(device) for name, x in found.items()}


def parts(matrix):
    """A span for each rank, along the long side."""
    rows, cols = matrix.shape
    ends = [max(rows, cols) * i // RANKS for i in range(RANKS + 1)]
    if rows > cols:
        return [Span(ends[i], ends[i + 1], 0, cols) for i in range(RANKS)]
    return [Span(0, rows, ends[i], ends[i + 1]) for i in range(RANKS)]


@pytest.mark.parametrize("device", DEVICES)
def test_shared_matrices_have_the_rows_of_whole_ones(device):
    matrices, device = matrices_on(device), torch.device(device)
    spans = {name: parts(matrix) for name, matrix in matrices.items()}
    plan = make_plan([
        [Holding(name, tuple(x.shape), str(x.dtype)[6:], (spans[name][rank],)) for name, x in matrices.items()]
        for rank in range(RANKS)
    ])  # fmt: skip
    assert {matrix.way for matrix in plan.matrices} == {"whole", "gram"}

    def measure(ranks):
        sources = []
        for name, x in matrices.items():
            span = spans[name][ranks.rank]
            local = x[span.top : span.bottom, span.left : span.right].contiguous()
            sources.append(Source(local, local, piece=Piece(tuple(x.shape), (span,))))
        given = (TOLERANCES, SPECTRUM, device, OwnStream(device))
        shared = SharedMeasurer(plan, ranks, sources, list(matrices), (), len(matrices), *given)
        for step in (1, 2, 3):
            shared.begin(step)
            values, sigma = shared.measure(sources, due=step == 3)
        return values.cpu(), sigma.cpu()

    whole = [Source(x, x) for x in matrices.values()]
    expected, spectra = Measurer(TOLERANCES, SPECTRUM, device, OwnStream(device)).measure(whole, True)
    names = columns(TOLERANCES, SPECTRUM)
    ranks = [i for i, name in enumerate(names) if name.startswith("rank_")]
    for values, sigma in in_threads(RANKS, measure):
        closed = expected[:, ranks][:, ::2] == expected[:, ranks][:, 1::2]  # on a GPU some may be left open
        assert torch.equal(values[:, ranks][:, ::2][closed.cpu()], expected[:, ranks][:, ::2].cpu()[closed.cpu()])
        others = [i for i, name in enumerate(names) if i not in ranks and name != "status"]
        alone = expected[:, others].cpu()
        if device.type == "cuda":  # at its first measurement a GPU may not know sigma_1 yet; here each had three
            alone = torch.where(alone.isnan(), values[:, others], alone)
        torch.testing.assert_close(values[:, others], alone, rtol=2e-4, atol=1e-9, equal_nan=True)
        torch.testing.assert_close(sigma, spectra.cpu(), rtol=1e-4, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
def test_a_sharded_model_of_one_process_has_the_rows_of_an_unsharded_one(device):
    from torch.distributed.fsdp import fully_shard

    def train(shard):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)).to(device)
        shard(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        with RankTracker(model, optimizer, tolerance=TOLERANCES, timeout=30) as tracker:
            for _ in range(20):
                model(torch.ones(4, 20, device=device)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            return tracker.to_arrow().to_pylist()

    expected = train(lambda model: None)
    with world_of_one(device) as mesh:
        found = train(lambda model: fully_shard(model, mesh=mesh))
    whole = ("step", "name", "rows", "cols", "rank_lower", "rank_upper")
    assert [[row[key] for key in whole] for row in found] == [[row[key] for key in whole] for row in expected]
