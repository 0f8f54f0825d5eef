"""Which steps are steps of the model: of several optimizers; not those that train nothing. And how a tracker ends."""

from __future__ import annotations

import warnings

import pytest
import torch
from six_inputs import gradients
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim import Optimizer

import fastrank
from fastrank import RankTracker

NEVER = pytest.warns(UserWarning, match=r"has never stepped .* nothing was recorded")


@pytest.mark.parametrize("make", [fastrank.SGD, torch.optim.AdamW])
def test_of_several_optimizers_all_have_to_step_for_a_row(make):
    """As with Muon for matrices and AdamW for the rest, or in a GAN whose critic steps more often."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    first, second = make(model[0].parameters(), lr=0.1), torch.optim.Adam(model[1].parameters(), lr=0.1)
    tracker = RankTracker(model, [first, second])
    rows = []
    for optimizer in (first, first, second) * 2 + (first, second):
        gradients(model)
        optimizer.step()
        rows.append(tracker.to_arrow().num_rows)
    assert rows == [0, 0, 2, 2, 2, 4, 4, 6]
    norms = tracker.to_pandas().frobenius_norm.tolist()
    assert norms[-2:] == pytest.approx([layer.weight.norm().item() for layer in model], rel=1e-6)


@pytest.mark.parametrize(
    ("steps", "ends"),
    [
        ("abbabab", [1, 4, 6]),  # the first one skips a step
        ("abcbcabcabc", [2, 7, 10]),
        ("abaab", [1, 4]),  # the second one does
        ("abaaabab", [1, 5, 7]),
        ("abbababa", [1, 4, 6]),  # the order changes, and one step of the model ends with the next one's first
        ("aabaab", [2, 5]),
    ],
)
def test_a_step_of_the_model_ends_where_the_last_one_did(steps, ends):
    model = nn.ModuleList(nn.Linear(3, 3) for _ in "abc")
    optimizers = {name: torch.optim.SGD(layer.parameters(), lr=0.1) for name, layer in zip("abc", model, strict=True)}
    tracker = RankTracker(model, [optimizers[name] for name in sorted(set(steps))])
    rows = []
    for name in steps:
        optimizers[name].step()
        rows.append(len(set(tracker.to_pandas().step)))
    assert [i for i, (before, now) in enumerate(zip([0, *rows], rows, strict=False)) if now > before] == ends


def test_one_of_several_that_never_steps_is_said_when_the_tracker_is_closed():
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in model]
    tracker = RankTracker(model, optimizers)
    gradients(model)
    optimizers[0].step()
    assert tracker.latest() == {}  # the second one may yet step
    with NEVER:
        tracker.close()


@pytest.mark.parametrize(("flags", "rows"), [((0.0, 1.0), 1), ((1.0, 1.0), 0), ((None, 1.0), 1), ((0.0, 0.0), 1)])
def test_an_overflow_of_some_optimizers_is_a_step_of_the_others(flags, rows):
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1, fused=True) for layer in model]
    tracker = RankTracker(model, optimizers)
    for optimizer, flag in zip(optimizers, flags, strict=True):
        optimizer.found_inf = None if flag is None else torch.tensor(flag)
        optimizer.step()
    assert tracker.to_arrow().num_rows == 2 * rows


@pytest.mark.parametrize("make", [fastrank.SGD, torch.optim.SGD, torch.optim.AdamW])
def test_a_step_that_makes_the_optimizers_state_is_none(model, make):
    """`torch.distributed.checkpoint` takes it when it reads the state of an optimizer that has none."""
    optimizer = make(model.parameters(), lr=0.1)
    tracker = RankTracker(model, optimizer)
    get_optimizer_state_dict(model, optimizer)
    assert tracker.latest() == {}
    gradients(model)
    optimizer.step()
    optimizer.zero_grad()
    get_optimizer_state_dict(model, optimizer)
    assert tracker.to_pandas().step.tolist() == [1]


@pytest.mark.parametrize("rate", [0.0, torch.tensor(0.0)])
def test_a_schedule_that_begins_at_zero_counts(model, rate):
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    tracker = RankTracker(model, optimizer)
    gradients(model)
    optimizer.step()
    assert tracker.to_pandas().step.tolist() == [1]


def test_an_optimizer_made_anew_is_said_when_the_history_is_read(model):
    tracker = RankTracker(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert tracker.latest() == {}  # nothing has been trained yet, and nothing is wrong
    second = torch.optim.Adam(model.parameters())
    gradients(model)
    second.step()
    with NEVER:
        tracker.latest()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.to_arrow()  # once is enough
        tracker.close()


class SAM(Optimizer):
    """Sharpness-aware minimisation as commonly written: its own `step` is never called."""

    def __init__(self, params, base):
        super().__init__(params, {})
        self.base_optimizer = base(self.param_groups)
        self.param_groups = self.base_optimizer.param_groups

    def second_step(self):
        self.base_optimizer.step()


def test_two_calls_of_sam_are_said_when_the_tracker_is_closed(model):
    sam = SAM(model.parameters(), lambda groups: torch.optim.SGD(groups, lr=0.1))
    tracker = RankTracker(model, sam)
    gradients(model)
    sam.second_step()
    with NEVER:
        tracker.close()


def test_steps_that_were_counted_by_hand_are_no_reason_to_warn(model, recwarn):
    tracker = RankTracker(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with torch.no_grad():
        model.weight.mul_(2)
    tracker.step()
    assert len(tracker.latest()) == 1
    tracker.close()
    RankTracker(model).close()
    assert not recwarn.list


def test_the_block_of_a_with_statement_closes(model, tmp_path):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with RankTracker(model, optimizer, directory=tmp_path) as tracker:
        gradients(model)
        optimizer.step()
        assert isinstance(tracker, RankTracker)
    optimizer.step()
    assert fastrank.read_history(tmp_path).num_rows == 1


def test_an_error_in_the_block_closes_as_well(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker = RankTracker(model, optimizer)

    def train():
        with tracker:
            optimizer.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    optimizer.step()
    assert tracker.to_arrow().num_rows == 1
