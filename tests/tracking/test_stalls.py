"""A tracked step on a busy machine: it gets less of the cores, as anything would, but waits for no thread of its own.

Threads that wait for each other by spinning are harmless on an idle machine. Where other processes have the cores, each
such wait may take as long as those may run, and a factorisation has hundreds: with `one_thread` left out, a step of
this test took 2 to 7 s, and its limit is about 0.1 s.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from fastrank import RankTracker, backend
from fastrank.device import ONE_THREAD_UP_TO, one_thread

SECONDS = 5.0


@pytest.fixture
def threads():
    """Two threads for PyTorch, whatever the other tests have."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


@pytest.fixture
def busy():
    """A busy process for each core, in turn with this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.mark.parametrize("by", ["default", "pytorch"])
def test_a_step_waits_for_no_thread_that_has_no_core(by, threads, busy, monkeypatch):
    """Against a loop in this thread alone that needs as much of a core, in turn, so that both meet the same load."""
    if by == "pytorch" and hasattr(backend, "compiled_serve"):
        monkeypatch.setattr(backend, "compiled_serve", lambda device: False)
    tracker = RankTracker(nn.Sequential(*(nn.Linear(100, 100) for _ in range(5))))
    with one_thread(0):
        for _ in range(3):  # compiles, or loads libraries
            tracker.step()
        needed, each = time.thread_time(), 10
        for _ in range(each):
            tracker.step()
        needed = (time.thread_time() - needed) / each

    def alone():
        end = time.thread_time() + needed
        while time.thread_time() < end:
            pass

    steps, loops, end = [], [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(steps) < 5:
        steps.append(seconds(tracker.step))
        loops.append(seconds(alone))
    slow = [sorted(taken)[int(0.95 * len(taken))] for taken in (steps, loops)]
    assert slow[0] < max(3 * slow[1], 0.1)


def test_threads_are_put_back(threads):
    with one_thread(ONE_THREAD_UP_TO + 1):
        assert torch.get_num_threads() == 2
    inside = []
    with pytest.raises(ZeroDivisionError), one_thread(ONE_THREAD_UP_TO):
        inside.append(torch.get_num_threads() / 0)
    with one_thread(ONE_THREAD_UP_TO):
        inside.append(torch.get_num_threads())
    assert inside == [1]
    assert torch.get_num_threads() == 2


def test_threads_of_the_user_s_leave_each_other_theirs(threads):
    """PyTorch gives a thread that asks for the first time what others have set, and never another number."""

    def run(_):
        for _ in range(50):
            with one_thread(0):
                time.sleep(1e-4)
        return torch.get_num_threads()

    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(run, range(3))) == [2, 2, 2]
    assert torch.get_num_threads() == 2
