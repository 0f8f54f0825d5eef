"""What ranks tell each other with the rows of a step: heard at once on a CPU, and some steps later on CUDA."""

from __future__ import annotations

import pytest
import torch
from thread_ranks import ThreadRanks

from fastrank.sharing import telling

STEPS = "rank 0 has measured step 3 and rank 1 step 4: the trackers of all ranks have to be told of the same steps"


def told_by_two(device):
    """A function that has two ranks tell which step they measure and who wants to stop, and returns what they hear."""
    ranks = [telling.Telling(ThreadRanks(i, 2, {}, None), device) for i in range(2)]

    def tell(steps, stop=(False, False)):
        told = torch.zeros(ranks[0].size, dtype=torch.float64)
        for own, step, wants in zip(ranks, steps, stop, strict=True):
            own.step, own.wants_stop = step, wants
            each = torch.zeros_like(told)
            own.say(each)
            told += each
        return [bool(own.hear(told)) for own in ranks]

    return ranks, tell


def test_on_a_cpu_at_once():
    ranks, tell = told_by_two(torch.device("cpu"))
    assert tell((2, 2), (False, True)) == [False, False]
    assert [own.should_stop for own in ranks] == [True, True]
    with pytest.raises(RuntimeError, match=STEPS):
        tell((3, 4))


@pytest.mark.parametrize("how", ["step by step", "at the end"])
def test_on_cuda_some_steps_later_and_at_the_end(how, monkeypatch):
    """The host does not wait, and what the device has is marked as mixed at once."""
    monkeypatch.setattr(telling, "mark", lambda device: None)
    ranks, tell = told_by_two(torch.device("cuda"))
    assert tell((2, 2), (True, False)) == [False, False]
    assert tell((3, 4)) == [True, True]
    for step in range(5, 3 + telling.LAG):
        assert tell((step, step)) == [False, False]
    assert [own.should_stop for own in ranks] == [False, False]
    assert tell((100, 100)) == [False, False]
    assert [own.should_stop for own in ranks] == [True, True]
    for own in ranks:
        with pytest.raises(RuntimeError, match=STEPS):
            own.hear_all() if how == "at the end" else own.hear(torch.tensor([101.0, 101.0, 0.0]))
    if how == "at the end":
        for own in ranks:
            own.hear_all()  # each is heard once
