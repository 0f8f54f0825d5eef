"""Threads: each has its share, nobody waits for one that has not begun, and nothing is left running by an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fastrank.kernels.cpu.threads import together


def test_each_is_a_thread_of_its_own():
    seen, barrier = {}, threading.Barrier(2, timeout=30)

    def task(i):
        barrier.wait()
        seen[i] = threading.get_ident()

    together(task, 2)
    assert seen[0] == threading.get_ident() != seen[1]


def test_one_needs_no_other_thread():
    seen = []
    together(lambda i: seen.append((i, threading.get_ident())), 1)
    assert seen == [(0, threading.get_ident())]


def test_what_has_not_begun_is_not_run_any_more():
    """All threads of the pool are kept busy by somebody else, so that none begins with this."""
    hold, cores = threading.Event(), os.cpu_count() or 1
    began = threading.Semaphore(0)

    def keep(i):
        began.release()
        hold.wait(30)

    def other():
        together(lambda i: keep(i) if i else hold.wait(30), cores + 1)

    busy = threading.Thread(target=other)
    busy.start()
    for _ in range(cores):
        assert began.acquire(timeout=30)
    seen = []
    together(seen.append, 3)
    hold.set()
    busy.join()
    time.sleep(0.05)
    assert seen == [0]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_raised_when_nobody_works_any_more(failing):
    working, barrier = [], threading.Barrier(2, timeout=30)

    def task(i):
        barrier.wait()
        if i == failing:
            raise ArithmeticError
        working.append(i)
        time.sleep(0.05)
        working.remove(i)

    with pytest.raises(ArithmeticError):
        together(task, 2)
    assert not working


def test_an_interrupt_waits_for_the_others():
    """Ctrl-C, while the first thread waits for the second one, which reads memory that is freed after an error."""
    working, began = [], threading.Event()

    def task(i):
        if i:
            working.append(i)
            began.set()
            time.sleep(0.5)
            working.remove(i)
        else:
            assert began.wait(30)
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        together(task, 2)
    assert not working


SCRIPT = """
import os, sys, threading, time
import torch
from fastrank import linalg
from fastrank.counting import compiled
compiled.FLOPS_A_THREAD = 1.0
torch.set_num_threads(2)
matrix = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
expected = linalg.rank_bounds(matrix)
def check():
    assert torch.equal(torch.stack([x.long() for x in linalg.rank_bounds(matrix)]),
                       torch.stack([x.long() for x in expected]))
"""

FORKED = """
child = os.fork()
if not child:
    check()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
check()
print("done")
"""

AFTER_THE_END = """
def late():
    threading.main_thread().join()
    time.sleep(0.2)
    check()
    print("done")
threading.Thread(target=late).start()
"""


@pytest.mark.parametrize("what", [FORKED, AFTER_THE_END], ids=["fork", "after the main thread's end"])
def test_where_the_threads_are_gone(what):
    """They do not exist in a child of a fork, and none can be started when the main thread has ended."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT + what],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr
