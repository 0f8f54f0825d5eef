"""What a tracker says of itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastrank


@pytest.fixture
def model():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([1.0, 1.0, 0, 0, 0, 0, 0, 0])))
    return model


def test_before_the_first_step(model):
    tracker = fastrank.RankTracker(model)
    assert repr(tracker) == "RankTracker: 2 matrices of Sequential, no step recorded yet (every step)"
    assert "no step recorded" in tracker._repr_html_()


def test_how_it_stands(model):
    tracker = fastrank.RankTracker(model, every=2)
    for _ in range(5):
        tracker.step()
    assert repr(tracker) == (
        "RankTracker: 2 matrices of Sequential, steps 1 to 4 (every 2), mean rank 62% of full, "
        "lowest 0.weight 2 of 8; all certified"
    )
    page = tracker._repr_html_()
    assert page.count("<tr>") == 3
    assert "<code>0.weight</code>" in page


def test_the_model_is_named_without_its_wrappers(model):
    tracker = fastrank.RankTracker(torch.compile(nn.DataParallel(model), backend="eager"))
    assert repr(tracker).startswith("RankTracker: 2 matrices of Sequential, ")


def test_a_rule_is_named(model):
    assert "(logarithmic(per_decade=5, longest=None))" in repr(
        fastrank.RankTracker(model, every=fastrank.schedules.logarithmic(5))
    )


def test_since_when_is_known_after_a_resume(model, tmp_path):
    first = fastrank.RankTracker(model, every=2, directory=tmp_path, rows_per_part=2)
    for _ in range(4):
        first.step()
    first.close()
    second = fastrank.RankTracker(model, every=2, directory=tmp_path, rows_per_part=2)
    second.load_state_dict(first.state_dict())
    assert "steps 1 to 4 " in repr(second)


def test_not_finite(model):
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    tracker = fastrank.RankTracker(model)
    tracker.step()
    assert "1 not finite" in repr(tracker)


def test_a_repr_changes_nothing(model):
    tracker = fastrank.RankTracker(model)
    for _ in range(3):
        tracker.step()
        repr(tracker)
        tracker._repr_html_()
    assert tracker.to_arrow().num_rows == 6
    assert tracker.scalars()


def test_a_tracker_draws_itself(model):
    tracker = fastrank.RankTracker(model, spectrum=["singular_values"])
    for _ in range(3):
        tracker.step()
    assert len(tracker.plot().axes) > len(tracker.plot(kind="average").axes)


def test_the_mean_is_that_of_the_weights(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    tracker = fastrank.RankTracker(model, optimizer, of=["weight", "gradient"])
    for layer in model:
        layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()
    assert "4 matrices of Sequential, step 1 (every step), mean rank 62% of full, lowest 0.weight 2 of 8" in repr(
        tracker
    )


def test_an_empty_matrix_has_no_share():
    model = nn.ParameterDict({"empty": nn.Parameter(torch.zeros(0, 3)), "eye": nn.Parameter(torch.eye(2))})
    tracker = fastrank.RankTracker(model)
    tracker.step()
    assert "mean rank 100% of full, lowest eye 2 of 2; all certified" in repr(tracker)
    assert "0 &times; 3" in tracker._repr_html_()
