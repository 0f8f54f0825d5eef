"""A tracked `fastrank.SGD`: the step is fused with the sketch, changes no bit of training, and every answer is true."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import Parameter

import fastrank
from fastrank import RankTracker, Tolerance, backend, linalg, testing

pytest.importorskip("triton")
from fastrank.measuring.plan import Plan
from fastrank.measuring.sketch_measurer import SketchMeasurer

pytestmark = pytest.mark.usefixtures("served", "small_bases")


@pytest.fixture
def fused(monkeypatch):
    """How many parameters each step of an optimizer has left to its companion."""
    counts = []
    stock = SketchMeasurer.fuse

    def fuse(self, *arguments):
        counts.append(len(answer := stock(self, *arguments)))
        return answer

    monkeypatch.setattr(SketchMeasurer, "fuse", fuse)
    return counts


@pytest.fixture
def on_a_cpu(monkeypatch):
    """Bounds of ranks as a machine without kernels has them."""

    def bounds(matrices, tolerance):
        with monkeypatch.context() as without:
            without.setattr(backend, "kernels_serve", lambda device: False)
            found = linalg.rank_bounds([m.detach().cpu() for m in matrices], tolerance)
        return list(zip(found.lower.tolist(), found.upper.tolist(), strict=True))

    return bounds


class Net(nn.Module):
    """A matrix of rank 5, one of 5 rows whose basis is complete, one that no sketch decides, and a vector."""

    def __init__(self, device, dtype=torch.float32, lead=(), names="abcv"):
        super().__init__()
        shapes = {"a": (20, 24), "b": (5, 20), "c": (17, 26)}
        families = {"a": "low_rank", "b": "arithmetic", "c": "identity"}
        for name in names:
            if name == "v":
                made = torch.linspace(-1, 1, 7).expand(*lead, 7).clone()
            else:
                stack = [
                    testing.make(families[name], *shapes[name], seed=s).matrix for s in range(lead[0] if lead else 1)
                ]
                made = torch.stack(stack).view(*lead, *shapes[name])
            setattr(self, name, Parameter(made.to(device, dtype)))

    def set_gradients(self, number, missing=()):
        """Multiples of the weights, so that ranks stay; the fourth is what nobody has seen before."""
        for name, param in self.named_parameters():
            grad = param.detach() * (0.1 * number + 0.1)
            if number == 3:
                generator = torch.Generator().manual_seed(0)
                grad = grad + 0.5 * torch.randn(param.shape[-1], generator=generator).to(param)
            param.grad = None if name in missing else grad


def run(kind, net, steps, missing=(), **options):
    optimizer = kind(net.parameters(), **options)
    for number in steps:
        net.set_gradients(number, missing)
        optimizer.step()
    return optimizer


def assert_same(net, optimizer, other, twin):
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        for key, value in twin.state[q].items():
            assert torch.equal(torch.as_tensor(optimizer.state[p][key]).cpu(), torch.as_tensor(value).cpu())


def assert_row(row, matrix, bounds):
    """Nothing that is known is false; sigma_1 may be unknown."""
    sigma = testing.true_singular_values(matrix.detach())
    assert (row["rank_lower"], row["rank_upper"], row["status"]) == (*bounds, "OK")
    assert row["frobenius_norm"] == pytest.approx(sigma.norm().item(), rel=1e-12)
    if row["spectral_norm"] is not None:
        assert row["spectral_norm"] == pytest.approx(sigma[0].item(), rel=1.001e-4)
        assert row["stable_rank"] == pytest.approx((sigma.norm() / sigma[0]).square().item(), rel=2.1e-4)


MOMENTUM = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("options", "steps", "products"),
    [({}, 1, "fp64"), (MOMENTUM, 4, "fp64"), pytest.param(MOMENTUM, 4, "integers", marks=pytest.mark.int8)],
    ids=["plain", "nesterov", "integers"],
)
def test_bits_of_torch_and_ranks_of_a_cpu(options, steps, products, device, fused, on_a_cpu, monkeypatch):
    """The fourth step leaves the basis; what is decided is not counted, and everything else is."""
    monkeypatch.setenv(backend.PRODUCTS, products)
    gates = []
    stock = Plan.conclude

    def conclude(self):
        stock(self)
        gates.append((self._decided.tolist(), self._answers.counts.tolist()))
        self._workspace.fill_(torch.nan)  # nobody may look at it again

    monkeypatch.setattr(Plan, "conclude", conclude)
    net = Net(device)
    optimizer = fastrank.SGD(net.parameters(), lr=0.1, **options)
    tracker = RankTracker(net, optimizer)
    for number in range(steps):
        net.set_gradients(number)
        optimizer.step()
        rows = tracker.latest()
        matrices = [getattr(net, name) for name in "abc"]
        for name, matrix, bounds in zip("abc", matrices, on_a_cpu(matrices, Tolerance()), strict=True):
            assert_row(rows[name], matrix, bounds)
    assert fused == [3] * steps
    assert [set(decided) for decided, _ in gates] == [{0, 1}] * steps
    for decided, counts in gates:
        assert all(sum(c) == 0 for d, c in zip(decided, counts, strict=True) if d)
        assert all(max(c) > 0 for d, c in zip(decided, counts, strict=True) if not d)
    # The one of 5 rows always is, the one of rank 5 until it gets a sixth direction, the third never.
    assert [sum(decided) for decided, _ in gates] == [2, 2, 2, 1][:steps]
    for kind, more in ((fastrank.SGD, {}), (torch.optim.SGD, {"foreach": False})):
        other = Net(torch.device("cpu"))
        assert_same(net.cpu(), optimizer, other, run(kind, other, range(steps), lr=0.1, **options, **more))


def test_bits_of_stacks(device, fused, on_a_cpu):
    """Slices with learning rates and decays of their own, each as a model by itself."""
    values = {"lr": torch.tensor([0.1, 0.3], device=device), "weight_decay": torch.tensor([0.2, 0.0], device=device)}
    net, other = (Net(device, lead=(2,), names="av") for _ in range(2))
    optimizer = fastrank.SGD(net.parameters(), momentum=0.9, **values)
    tracker = RankTracker(net, optimizer, include=["a"])
    for number in range(2):
        net.set_gradients(number)
        optimizer.step()
    assert_same(net, optimizer, other, run(fastrank.SGD, other, range(2), momentum=0.9, **values))
    assert fused == [1, 1]
    for row, matrix, bounds in zip(tracker.latest().values(), net.a, on_a_cpu(net.a, Tolerance()), strict=True):
        assert_row(row, matrix, bounds)
        assert bounds == (5, 5)


def test_bits_of_half_precision_and_steps_that_are_not_measured(device, fused, on_a_cpu):
    """Every second step: those in between are the optimizer's own."""
    net, other = (Net(device, torch.bfloat16, names="av") for _ in range(2))
    optimizer = fastrank.SGD(net.parameters(), lr=0.1, momentum=0.9)
    tracker = RankTracker(net, optimizer, every=2, tolerance=Tolerance(0.1))
    for number in range(4):
        net.set_gradients(number % 3)
        optimizer.step()
    twin = fastrank.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for number in range(4):
        other.set_gradients(number % 3)
        twin.step()
    assert_same(net, optimizer, other, twin)
    assert fused == [1, 1, 0, 1]
    assert tracker.to_pandas().step.tolist() == [1, 2, 4]
    assert_row(tracker.latest()["a"], net.a, on_a_cpu([net.a], Tolerance(0.1))[0])


def bits(tracker):
    """Everything a step may change of a tracker's sketches."""
    state = tracker._measurer.state(tracker._weights.sources())["sketches"]
    kept = [x.clone() for basis in state["bases"].values() for x in basis.values()]
    grams = [tracker._measurer._home._trained._sketches._bases.sketches.tensors["basis_grams"].cpu().clone()]
    return [torch.tensor(state["step"]), *kept, *grams]


def test_a_missing_gradient_and_an_overflow(device, fused):
    """No gradient: no update, but a row. Overflow, as `GradScaler` tells a fused optimizer: nothing at all."""
    net, other = (Net(device, names="ab") for _ in range(2))
    optimizers = [fastrank.SGD(n.parameters(), lr=0.1, momentum=0.9, fused=True) for n in (net, other)]
    tracker = RankTracker(net, optimizers[0])
    for number, (missing, overflow) in enumerate([((), 0.0), (("b",), 0.0), ((), 1.0), ((), 0.0)]):
        before = bits(tracker) if number else []
        weights = [p.detach().clone() for p in net.parameters()]
        for n, optimizer in zip((net, other), optimizers, strict=True):
            n.set_gradients(number % 3, missing)
            optimizer.grad_scale = torch.tensor(2.0, device=device)
            optimizer.found_inf = torch.tensor(overflow, device=device)
            optimizer.step()
        assert_same(net, optimizers[0], other, optimizers[1])
        assert torch.equal(weights[1], net.b) == (number in (1, 2))
        if overflow:
            assert all(torch.equal(a, b) for a, b in zip(before, bits(tracker), strict=True))
            assert torch.equal(weights[0], net.a)
    assert tracker.to_pandas().step.tolist() == [1, 1, 2, 2, 3, 3]
    assert tracker.to_pandas().rank_upper.tolist() == [5] * 6
    assert fused == [2] * 4


def test_two_trackers_replaced_parameters_and_an_end(device, fused, on_a_cpu):
    """The first one fuses, both are right; a parameter that takes another's place is found; copies are nobody's."""
    net = Net(device, names="a")
    optimizer = fastrank.SGD(net.parameters(), lr=0.1)
    first, second = RankTracker(net, optimizer), RankTracker(net, optimizer, tolerance=Tolerance(0.3))
    assert optimizer.companion is first._measurer
    net.set_gradients(0)
    optimizer.step()
    net.a = Parameter(torch.eye(18, 24, device=device))
    optimizer.param_groups[0]["params"] = [net.a]
    net.set_gradients(1)
    optimizer.step()
    assert fused == [1, 1]
    for tracker, tolerance in ((first, Tolerance()), (second, Tolerance(0.3))):
        assert_row(tracker.latest()["a"], net.a, on_a_cpu([net.a], tolerance)[0])
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin.companion is None
        twin.step()
    first.close()
    assert optimizer.companion is None
    optimizer.step()
    assert (first.to_arrow().num_rows, second.to_arrow().num_rows) == (2, 3)
    assert len(fused) == 2


def test_a_state_goes_on(device):
    """In another tracker, of another model with the same weights: the same history, to the bit."""
    nets = [Net(device, names="ab") for _ in range(2)]
    optimizers = [fastrank.SGD(n.parameters(), lr=0.1) for n in nets]
    trackers = [RankTracker(n, o) for n, o in zip(nets, optimizers, strict=True)]
    for number in range(2):
        nets[0].set_gradients(number)
        optimizers[0].step()
        if number == 0:
            nets[1].load_state_dict(nets[0].state_dict())
            trackers[1].load_state_dict(pickle.loads(pickle.dumps(trackers[0].state_dict())))
    nets[1].set_gradients(1)
    optimizers[1].step()
    assert trackers[0].to_arrow().equals(trackers[1].to_arrow())
    assert all(torch.equal(a, b) for a, b in zip(bits(trackers[0]), bits(trackers[1]), strict=True))
