"""RankTracker on a CPU: the rows that wait on the host are those that were measured, and no optimizer is changed."""

from __future__ import annotations

import torch
from torch.nn.utils import parametrize

import fastrank
from fastrank import RankTracker


def test_rows_that_are_read_late_are_those_that_are_read_at_once(mlp, train, counting):
    """Whether or not a measurer writes a row into the memory of the last one."""
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.5, weight_decay=0.05)
    late, at_once = RankTracker(mlp, optimizer), RankTracker(mlp, optimizer)
    for i in range(12):
        train(mlp, optimizer, 1, start=i)
        at_once.latest()
    assert late.to_arrow().equals(at_once.to_arrow())
    assert late.to_pandas().frobenius_norm.nunique() == 36


def test_a_row_may_be_overwritten_once_it_is_recorded(mlp):
    tracker = RankTracker(mlp)
    measure, memory = tracker._measurer.measure, []

    def overwriting(*args):
        values, spectra = measure(*args)
        memory[:] = [memory[0].copy_(values) if memory else values]
        return memory[0], spectra

    tracker._measurer.measure = overwriting
    for _ in range(3):
        with torch.no_grad():
            mlp[3].weight.mul_(2)
        tracker.step()
    first, second, third = tracker.to_pandas().query("name == '3.weight'").frobenius_norm.tolist()
    assert (second, third) == (2 * first, 4 * first)


def test_an_optimizer_gets_no_hook_before_its_steps(mlp):
    """Nothing is fused into a step there, so nothing has to be announced."""
    optimizer = fastrank.SGD(mlp.parameters(), lr=0.1)
    with RankTracker(mlp, optimizer):
        assert optimizer.companion is None
        assert not optimizer._optimizer_step_pre_hooks
        assert len(optimizer._optimizer_step_post_hooks) == 1


def test_what_is_recorded_has_no_graph(mlp):
    """A step by hand is taken where gradients are recorded: also of a weight that is made from parameters."""

    class Doubled(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    parametrize.register_parametrization(mlp[0], "weight", Doubled())
    tracker = RankTracker(mlp, spectrum=["singular_values", "effective_rank"])
    kept = []
    tracker._history.append = lambda number, values, spectra, *_, **__: kept.extend([values, spectra])
    with torch.enable_grad():
        tracker.step()
    assert len(kept) == 2
    assert not any(tensor.requires_grad for tensor in kept)
