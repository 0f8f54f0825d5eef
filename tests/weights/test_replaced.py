"""Sizes and places are those of now: a module or parameter replaced under its name is followed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrank import RankTracker


def shapes(tracker):
    return {name: (row["rows"], row["cols"]) for name, row in tracker.latest().items()}


def test_a_replaced_module_is_followed_with_its_own_size(counting):
    model = nn.Sequential(nn.Linear(16, 32), nn.Sequential(nn.Linear(32, 4)))
    tracker = RankTracker(model, spectrum=["singular_values"])
    tracker.step()
    assert tracker.full_rank == (16 + 4) / 2
    model[1] = nn.Sequential(nn.Linear(32, 7))
    nn.init.zeros_(model[1][0].weight)
    tracker.step()
    assert shapes(tracker)["1.0.weight"] == (7, 32)
    assert tracker.latest()["1.0.weight"]["rank_upper"] == 0
    assert tracker.full_rank == (16 + 7) / 2
    model[0].weight = nn.Parameter(torch.eye(3))
    model[1][0] = nn.Linear(2, 2)
    tracker.step()
    history = tracker.to_arrow().to_pylist()
    assert [(row["rows"], row["cols"]) for row in history] == [(32, 16), (4, 32), (32, 16), (7, 32), (3, 3), (2, 2)]
    assert [len(row["singular_values"]) for row in history] == [16, 4, 16, 7, 3, 2]


def test_a_module_that_is_gone_is_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tracker = RankTracker(model)
    model[1] = nn.Identity()
    with pytest.raises(RuntimeError, match=r"'1\.weight' is no longer part of the model"):
        tracker.step()
    model[1] = nn.Conv2d(4, 6, 3, groups=2)
    with pytest.raises(RuntimeError, match=r"'1\.weight' had 1 matrices and now, with shape \(6, 2, 3, 3\), has 2"):
        tracker.step()
    model[1] = nn.Conv2d(4, 6, 3)
    tracker.step()
    assert shapes(tracker)["1.weight"] == (6, 36)


def test_a_weight_that_lost_its_dimensions_is_named():
    model = nn.Sequential(nn.Linear(4, 4))
    tracker = RankTracker(model)
    model[0].weight = nn.Parameter(torch.ones(4))
    with pytest.raises(RuntimeError, match=r"'0\.weight', of shape \(4,\), has no matrices \(not a matrix\)"):
        tracker.step()
