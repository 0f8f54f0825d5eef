"""Compiled measurer: the history is the one that PyTorch's measurer writes, from the weights as they are now."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fastrank import RankTracker, Tolerance, backend
from fastrank.reference import widened

pytestmark = pytest.mark.skipif(bool(backend.why_numba_fails()), reason=backend.why_numba_fails())

TOLERANCES = [Tolerance(), Tolerance(0.1, "spectral"), Tolerance(0.5, "absolute")]
SPECTRUM = ["effective_rank", "nuclear_norm", "singular_values"]


class Kinds(nn.Module):
    """A weight of each kind: tall, wide, FP64, BF16, a stack, a transposed one, a frozen one."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def weight(*shape, dtype=torch.float32):
            return nn.Parameter(torch.randn(*shape, generator=generator).to(dtype))

        self.tall, self.wide = weight(40, 9), weight(9, 70)
        self.wide_numbers, self.narrow = weight(12, 20, dtype=torch.float64), weight(20, 12, dtype=torch.bfloat16)
        self.conv, self.turned = weight(6, 4, 3, 3), nn.Parameter(weight(8, 11).detach().T)
        self.frozen = weight(7, 8).requires_grad_(False)


def tracked(model, **options):
    options = {"tolerance": TOLERANCES, "spectrum": SPECTRUM, "spectrum_every": 3, "select": "all", **options}
    return RankTracker(model, **options)


@torch.no_grad()
def change(model, step):
    """Ranks fall and rise, a weight is zero for a step, and one is not finite for another."""
    generator = torch.Generator().manual_seed(step)
    for i, weight in enumerate(p for p in model.parameters() if p.requires_grad):
        matrix = weight.flatten(1)
        noise = torch.randn(matrix.shape, generator=generator).to(matrix)
        matrix.mul_(0.5).add_(noise * (1e-5 if (i + step) % 3 else 0.3))
        if (i + step) % 5 == 0:
            matrix[1:] = matrix[:1]
    if step == 4:
        model.wide.zero_()
        model.tall[3, 3] = torch.nan
        model.wide_numbers[0, 0] = torch.inf
    if step == 6:
        for weight in (model.wide, model.tall, model.wide_numbers):
            weight.copy_(torch.randn(weight.shape, generator=generator))


def history(steps, compiled, monkeypatch, model=None):
    with monkeypatch.context() as patch:
        if not compiled:
            patch.setattr(backend, "compiled_serve", lambda device: False)
        model = Kinds() if model is None else model
        tracker = tracked(model)
        for step in range(steps):
            change(model, step)
            tracker.step()
        return tracker.to_arrow().to_pylist()


def assert_alike(rows, others):
    """Equal ranks; norms to what is proven of sigma_1. A status may be `FALLBACK` on one path only."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"status"}:
            wanted = other[name]
            if isinstance(wanted, float) or (isinstance(wanted, list) and wanted):
                # Of sigma_1 PyTorch iterates until 1e-5 is proven.
                known = 1e-5 if name in ("stable_rank", "spectral_norm") else 1e-7
                wanted = pytest.approx(wanted, rel=known, abs=1e-12, nan_ok=True)
            assert row[name] == wanted, (row["step"], row["name"], name)
        assert (row["status"] == 1) == (other["status"] == 1)


def test_the_history_is_that_of_pytorch(monkeypatch):
    rows, others = history(9, True, monkeypatch), history(9, False, monkeypatch)
    assert_alike(rows, others)
    ranks = {row["rank_lower"] for row in rows}
    assert {None, 0} < ranks  # what is not finite, and zero, are among them
    assert len(ranks) > 4


def test_it_is_this_that_measures(monkeypatch):
    """Negative control: the two histories differ in bits."""
    rows, others = history(3, True, monkeypatch), history(3, False, monkeypatch)
    assert [row["spectral_norm"] for row in rows] != [row["spectral_norm"] for row in others]


def norm_of(weight):
    return torch.linalg.matrix_norm(widened(weight.detach().flatten(1)), 2).item()


def resize_storage(weight):
    saved, storage = weight.detach().clone(), weight.untyped_storage()
    size = storage.size()
    storage.resize_(0)
    kept = [torch.full((20, 30), torch.nan) for _ in range(20)]  # where it was, maybe
    storage.resize_(size)
    with torch.no_grad():
        weight.copy_(saved * 1.7)
    return kept


def share(weight):
    weight.data.mul_(1.5)
    weight.share_memory_()


def another(weight):
    weight.data = weight.data * 2


def turn(weight):
    weight.data = weight.detach().T.contiguous().T * 1.1


@torch.no_grad()
def set_(weight):
    weight.set_(torch.randn(20, 30))


@pytest.mark.parametrize("move", [resize_storage, share, another, turn, set_])
def test_a_weight_that_moves_in_memory(move):
    """Wherever it goes, it is read there."""
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 30))
    tracker = tracked(model, spectrum=[])
    for _ in range(3):
        tracker.step()
        kept = move(model[0].weight)
        overwritten = [torch.full((20, 30), torch.nan) for _ in range(20)]
        tracker.step()
        assert tracker.latest()["0.weight"]["spectral_norm"] == pytest.approx(norm_of(model[0].weight), rel=1e-8)
        del kept, overwritten


def test_a_weight_that_is_replaced():
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 30))
    tracker = tracked(model, spectrum=[])
    for i in range(4):
        if i % 2:
            model[0].weight = nn.Parameter(torch.randn(20, 30))
        else:
            model.load_state_dict({k: v * 3 for k, v in model.state_dict().items()}, assign=True)
        tracker.step()
        assert tracker.latest()["0.weight"]["spectral_norm"] == pytest.approx(norm_of(model[0].weight), rel=1e-8)


def test_nothing_is_kept_alive():
    """A weight that is made anew each step is gone when it has been measured."""
    import gc
    import weakref

    from torch.nn.utils import parametrizations

    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(9, 8)))
    tracker = tracked(model)
    made = []
    stock = tracker._measurer._home._trained._compiled.measure

    def measure(sources, due):
        made.extend(weakref.ref(source.matrix) for source in sources)
        return stock(sources, due)

    tracker._measurer._home._trained._compiled.measure = measure
    for _ in range(2):
        tracker.step()
    gc.collect()
    assert made
    assert not any(ref() is not None for ref in made)


@pytest.mark.parametrize("first", [True, False])
def test_checkpoints_go_from_one_to_the_other(first, monkeypatch):
    """Up to r = 512 PyTorch has no warm start, and above it one of eight vectors. The weights jump afterwards."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(530, 520))

    def serve(compiled):
        monkeypatch.setattr(backend, "compiled_serve", lambda device: compiled and device.type == "cpu")

    def step(tracker):
        tracker.step()
        return [row["spectral_norm"] for row in tracker.latest().values()]

    serve(first)
    tracker = tracked(model, spectrum=[])
    step(tracker)
    state = copy.deepcopy(tracker.state_dict())
    serve(not first)
    other = tracked(model, spectrum=[])
    other.load_state_dict(state)
    assert step(other) == pytest.approx([norm_of(model[0].weight), norm_of(model[1].weight)], rel=6e-6)
    other.load_state_dict(state)
    for layer in model:
        nn.init.normal_(layer.weight)
    assert step(other) == pytest.approx([norm_of(model[0].weight), norm_of(model[1].weight)], rel=6e-6)


def test_a_checkpoint_goes_on_with_the_same_bits():
    torch.manual_seed(0)
    model = Kinds()
    tracker = tracked(model)
    for step in range(3):
        change(model, step)
        tracker.step()
    state, saved = copy.deepcopy(tracker.state_dict()), copy.deepcopy(model.state_dict())
    histories = []
    for _ in range(2):
        model.load_state_dict(saved)
        other = tracked(model)
        other.load_state_dict(state)
        for step in range(3, 6):
            change(model, step)
            other.step()
            tracker.step() if not histories else None
        histories.append(repr(other.to_arrow().slice(other.to_arrow().num_rows - 21).to_pylist()))
    assert histories[0] == histories[1]
    own = tracker.to_arrow()
    assert repr(own.slice(own.num_rows - 21).to_pylist()) == histories[0]
