"""What ranks tell each other with the rows of a step: heard at once on a CPU, and some steps later on CUDA."""

from __future__ import annotations

import pytest
import torch
from thread_ranks import ThreadRanks

from fastrank import Tolerance
from fastrank.sharing import Plan, together

DIFFERENT = "rank 0 has measured step 3 and rank 1 step 4: the trackers of all ranks have to be told of the same steps"


def hearing(device):
    """One of two ranks that measure nothing, and a function by which it hears their steps, and if one wants to stop."""
    rank = together.Together(Plan((), ()), ThreadRanks(0, 2, {}, None), [Tolerance()], [], torch.device(device))

    def hear(first, second, stops=0):
        rank._hear(torch.tensor([first, second, stops, 0.0], dtype=torch.float64))

    return rank, hear


def test_on_a_cpu_at_once():
    rank, hear = hearing("cpu")
    hear(2, 2)
    assert not rank.should_stop
    hear(2, 2, stops=1)
    assert rank.should_stop
    with pytest.raises(RuntimeError, match=DIFFERENT):
        hear(3, 4)


@pytest.mark.parametrize("ends", [False, True])
def test_on_cuda_some_steps_later_or_at_the_end(ends, monkeypatch):
    monkeypatch.setattr(together, "mark", lambda device: None)
    rank, hear = hearing("cuda")
    hear(2, 2, stops=1)
    hear(3, 4)
    for step in range(5, 3 + together.LAG):
        hear(step, step)
    assert not rank.should_stop
    hear(99, 99)
    assert rank.should_stop
    with pytest.raises(RuntimeError, match=DIFFERENT):
        rank.hear_all() if ends else hear(100, 100)
    if ends:
        rank.hear_all()  # the others are alike, and none is heard twice
        assert not rank._sent


def test_what_a_rank_does_not_want_to_hear_any_more(monkeypatch):
    monkeypatch.setattr(together, "mark", lambda device: None)
    rank, hear = hearing("cuda")
    hear(3, 4)
    rank.forget()
    rank.hear_all()
