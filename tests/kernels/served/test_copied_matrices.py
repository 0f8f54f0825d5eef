"""A matrix that is a copy, because its parameter's strides allow no view, is measured as the step leaves it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import Parameter

import fastrank
from fastrank import RankTracker, testing
from fastrank.measuring import count_measurer

pytest.importorskip("triton")
from fastrank.counting.ragged import RaggedBatch
from fastrank.measuring.basis_passes import BasisPass
from fastrank.measuring.sketch_measurer import SketchMeasurer

pytestmark = pytest.mark.usefixtures("served", "small_bases")


class Net(nn.Conv2d):
    """A layer that sees its weights as kernels.

    `view` is a matrix by itself, `dense` and `sliced` are kernels of which no strides make one.

    `dense` has its input channels first in memory, without gaps, so that the optimizer's kernels take it; `sliced` is
    two of the three rows of every kernel of a larger one.
    """

    def __init__(self, device):
        super().__init__(1, 1, 1, bias=False)
        del self.weight
        planted = {
            "view": testing.make("low_rank", 18, 20, seed=0).matrix,
            "dense": testing.make("low_rank", 18, 24, seed=1).matrix.view(18, 6, 2, 2),
            "sliced": testing.make("arithmetic", 6, 8, seed=2).matrix.view(6, 2, 2, 2),
        }
        self.view = Parameter(planted["view"].to(device))
        self.dense = Parameter(planted["dense"].to(device).transpose(0, 1).contiguous().transpose(0, 1))
        wide = torch.zeros(6, 2, 3, 2, device=device)
        wide[:, :, :2] = planted["sliced"].to(device)
        self.sliced = Parameter(wide[:, :, :2])

    def set_gradients(self):
        """A step of 1 leaves half of all weights, and nothing of the first rows."""
        for param in self.parameters():
            param.grad = param.detach() / 2
            param.grad[:2] = param.detach()[:2]


def groups_of(net):
    """`sliced` in a group of its own: a group is the kernels' to step, or PyTorch's."""
    return [{"params": [net.view, net.dense]}, {"params": [net.sliced]}]


def assert_latest(tracker, net):
    """The last row has the norms and ranks of the weights as they are now."""
    for name, row in tracker.latest().items():
        matrix = getattr(net, name).detach().flatten(1).double()
        sigma = torch.linalg.svdvals(matrix)
        rank = int((sigma > 1e-3 * sigma.norm()).sum())
        assert row["frobenius_norm"] == pytest.approx(sigma.norm().item(), rel=1e-12), name
        assert (row["rank_lower"], row["rank_upper"], row["status"]) == (rank, rank, "OK"), name
        if row["spectral_norm"] is not None:
            assert row["spectral_norm"] == pytest.approx(sigma[0].item(), rel=1.001e-4), name


@pytest.fixture
def counted(monkeypatch):
    """For each step, how many parameters were stepped and sketched in one pass, and groups sketched in another."""
    steps = []
    fuse, multiply = SketchMeasurer.fuse, BasisPass.multiply

    def fused(self, *arguments):
        steps.append([len(answer := fuse(self, *arguments)), 0])
        return answer

    def multiplied(self, addresses):
        if steps:
            steps[-1][1] += 1
        multiply(self, addresses)

    monkeypatch.setattr(SketchMeasurer, "fuse", fused)
    monkeypatch.setattr(BasisPass, "multiply", multiplied)
    return steps


def test_these_matrices_are_copies(device):
    """Or the other tests would show nothing."""
    assert [source.offset for source in RankTracker(Net(device))._weights.sources()] == [0, None, None]


@pytest.mark.parametrize("kind", [fastrank.SGD, torch.optim.SGD, torch.optim.Adam], ids=["ours", "torch", "adam"])
def test_every_row_is_of_the_weights_after_its_step(kind, device, counted):
    """What is a view is stepped and sketched in one pass all the same, and tables are made once."""
    net = Net(device)
    optimizer = kind(groups_of(net), lr=1.0 if kind is not torch.optim.Adam else 0.01)
    tracker = RankTracker(net, optimizer)
    batches = []
    for _ in range(3):
        net.set_gradients()
        optimizer.step()
        assert_latest(tracker, net)
        batches.append(tracker._measurer._home._trained._sketches._plan)
    assert counted == ([[1, 1]] * 3 if kind is fastrank.SGD else [])
    assert all(batch is batches[0] for batch in batches)


def test_steps_that_are_not_measured(device):
    net = Net(device)
    optimizer = fastrank.SGD(groups_of(net), lr=1.0)
    tracker = RankTracker(net, optimizer, every=2)
    for number in range(1, 4):
        net.set_gradients()
        optimizer.step()
        if number != 3:
            assert_latest(tracker, net)
    state = tracker.state_dict()
    again = RankTracker(net)
    again.load_state_dict(state)
    again.step()
    assert_latest(again, net)


def test_what_a_hook_does_after_the_step_is_measured(device, counted):
    """A mask laid over the weights, then another kernel in the place of one: the step's own product is out of date."""
    net = Net(device)
    optimizer = fastrank.SGD(groups_of(net), lr=1.0)
    hooks = [lambda: None, lambda: net.view[:1].zero_()]
    hooks += [lambda: setattr(net, "view", Parameter(net.view.detach()[:17].clone()))]

    @torch.no_grad()
    def hook(*_):
        hooks.pop(0)()

    optimizer.register_step_post_hook(hook)
    tracker = RankTracker(net, optimizer, include=["view", "sliced"])
    net.view.grad = net.view.detach() / 2
    for _ in range(3):
        optimizer.step()
        assert_latest(tracker, net)
    assert [fused for fused, _ in counted] == [1, 1, 1]
    assert [again for _, again in counted][:2] == [1, 2]


def test_a_captured_step_copies_to_memory_that_lasts(device, captured):
    """A replay fills the copies that the tables point at, whatever has taken their places since."""

    def capture(step):
        with captured():
            step()

    net = Net(device)
    tracker = RankTracker(net, include=["dense", "sliced"])
    with pytest.raises(RuntimeError, match="take one with the same parameters"):
        capture(tracker.step)
    tracker.step()
    copies = [source.matrix for source in tracker._measurer._home._trained._sketches._bases._sources]
    capture(tracker.step)
    tracker.replayed()
    assert_latest(tracker, net)
    kept = [weakref.ref(copy) for copy in copies]
    addresses = [copy.data_ptr() for copy in copies]
    now = [source.matrix.data_ptr() for source in tracker._measurer._home._trained._sketches._bases._sources]
    assert now == addresses
    del copies
    net.dense, net.sliced = Parameter(net.dense[:17].detach()), Parameter(net.sliced[:5].detach())
    tracker.step()
    assert_latest(tracker, net)
    gc.collect()
    assert all(copy() is not None for copy in kept)
    net.sliced = Parameter(net.sliced[:4].detach())
    with pytest.raises(RuntimeError, match="take one with the same parameters"):
        capture(tracker.step)


def test_a_replay_copies_anew(device):
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    net = Net(device)
    tracker = RankTracker(net)
    tracker.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tracker.step()
    for factor in (0.5, 3.0):
        for param in net.parameters():
            param.data.mul_(factor)
        graph.replay()
        tracker.replayed()
        assert_latest(tracker, net)


def test_tables_of_fp64_copies_are_made_once(device, monkeypatch):
    """Such matrices have no sketch, and are counted where their copies stay."""
    made = []

    def noted(*args, **options):
        made.append(RaggedBatch(*args, **options))
        return made[-1]

    monkeypatch.setattr(count_measurer, "RaggedBatch", noted)
    layer = nn.Conv2d(1, 1, 1, bias=False)
    layer.weight = Parameter(torch.randn(9, 4, 3, 3, dtype=torch.float64, device=device)[:, ::2, :, ::2])
    tracker = RankTracker(layer)
    for scale in (1.0, 3.0):
        with torch.no_grad():
            layer.weight.mul_(scale)
        tracker.step()
        norm = tracker.latest()["weight"]["frobenius_norm"]
        assert norm == pytest.approx(layer.weight.norm().item(), rel=1e-12)
    assert len(made) == 1
