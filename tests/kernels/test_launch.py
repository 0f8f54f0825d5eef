"""Tapes: launches that are written down once, and launched again without Triton's JIT."""

from __future__ import annotations

import threading

import pytest
import torch

pytest.importorskip("triton")
import triton

from fastrank.kernels import launch as module
from fastrank.kernels.launch import Tape, recording
from fastrank.kernels.pointers import empty_table, poke_
from fastrank.kernels.record import record_


def test_a_tape_launches_the_same_again_and_reads_what_is_there_now(device):
    """Two launches, of which the second depends on the first: the ring gets the step that has just been written."""
    step = empty_table(1, device)
    ring, steps = (
        torch.zeros(4, 3, dtype=torch.float64, device=device),
        torch.zeros(4, dtype=torch.int64, device=device),
    )
    written = torch.zeros(1, dtype=torch.int64, device=device)
    values = torch.arange(3, dtype=torch.float64, device=device)
    calls = []

    def body():
        calls.append(None)
        poke_(step, [7])
        record_(steps, ring, written, step[0], values)

    tape = Tape()
    assert len(tape) == 0
    for _ in range(3):
        tape(body)
        values += 1
        written += 1
        assert len(tape) == 2
    assert len(calls) == 1
    assert steps.tolist() == [7, 7, 7, 0]
    assert ring.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 0, 0]]
    tape.forget()
    tape(body)
    assert len(calls) == 2


def test_a_body_that_fails_leaves_nothing_recorded(device):
    table, fails = empty_table(1, device), [True]

    def body():
        poke_(table, [5])
        if fails.pop():
            fails.append(False)
            raise ValueError("of the body")

    tape = Tape()
    with pytest.raises(ValueError, match="of the body"):
        tape(body)
    assert len(tape) == 0
    poke_(table, [6])
    assert len(tape) == 0
    tape(body)
    assert table[0] == 5
    assert len(tape) == 1


def test_a_recording_hears_of_its_own_thread_only(device):
    table = empty_table(1, device)
    with recording() as launches:
        other = threading.Thread(target=poke_, args=(table, [1]))
        other.start()
        other.join()
        assert not launches
        poke_(table, [2])
    poke_(table, [3])
    assert len(launches) == 1


@pytest.fixture
def by_jit(monkeypatch):
    """How often a launch went through the JIT."""
    seen = []
    stock = module.Launch.by_jit
    monkeypatch.setattr(module.Launch, "by_jit", lambda self: (seen.append(None), stock(self))[1])
    return seen


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the interpreter has no compiled kernels")
@pytest.mark.parametrize("hooked", [False, True])
def test_a_profiler_hears_of_every_launch(device, by_jit, monkeypatch, hooked):
    table = empty_table(1, device)
    tape, body = Tape(), lambda: poke_(table, [1])
    tape(body)
    heard: list[object] = []
    if hooked:
        monkeypatch.setattr(triton.knobs.runtime.launch_enter_hook, "calls", [heard.append])
    tape(body)
    assert len(by_jit) == 1 + hooked


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the interpreter has no compiled kernels")
def test_another_version_of_triton_launches_by_its_jit(device, by_jit, monkeypatch):
    monkeypatch.setattr(module, "VERSIONS", ("0.0.",))
    table = empty_table(1, device)
    tape, body = Tape(), lambda: poke_(table, [1])
    for _ in range(3):
        tape(body)
    assert len(by_jit) == 3


def test_rows_that_are_too_many_share_the_last_place(device):
    """More values than a program copies, and more rows than there are places."""
    size, capacity = 1500, 2
    ring = torch.zeros(capacity, size, dtype=torch.float64, device=device)
    steps = torch.zeros(capacity, dtype=torch.int64, device=device)
    written = torch.zeros(1, dtype=torch.int64, device=device)
    for row in range(5):
        values = torch.full((size,), float(row), dtype=torch.float64, device=device)
        record_(steps, ring, written, torch.tensor(row + 10, device=device), values)
        written += 1
    assert steps.tolist() == [10, 14]
    assert ring[:, 0].tolist() == ring[:, -1].tolist() == [0, 4]
