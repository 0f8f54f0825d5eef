"""Histories of two matrices whose rows are made up, for tests and for the scripts that tests run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from fastrank.history import History, Layout, read_history

LAYOUT = Layout(("a", "b"), ("stable_rank",), singular_values=True)
SHAPES = ((3, 2), (2, 5))

OTHER = "another tracker is writing there; close.* load its state to continue .* overwrite=True to start over"
EARLIER = "holds parts of an earlier run; load .* state to continue it, .* overwrite=True .* another folder"
"""Messages of `HistoryError`, for `match=`."""


class Owner:
    """Whoever has a history: the tracker's stand-in."""

    def __init__(self, history):
        self.history = history
        self.itself = self  # as the hooks of an optimizer hold the tracker that holds them
        history.close_with(self)


def make(directory=None, rows_per_part=10**6, **options):
    return History(LAYOUT, torch.device("cpu"), directory, rows_per_part, **options)


def record(history, *steps, shapes=SHAPES, **options):
    """Rows of these steps, with singular values where the step is odd; all numbers are that of the step."""
    for step in steps:
        sigma = torch.full((sum(map(min, shapes)),), float(step), dtype=torch.float64) if step % 2 else None
        history.append(torch.tensor(step), torch.full((2, 1), float(step)), sigma, shapes, **options)


def steps_of(table):
    """The steps of a table, after a check that each has its two rows with their numbers."""
    steps = table["step"].to_pylist()
    assert table["name"].to_pylist() == ["a", "b"] * (len(steps) // 2)
    assert steps[::2] == steps[1::2]
    assert table["stable_rank"].to_pylist() == steps
    found = [None if sigma is None else set(sigma) for sigma in table["singular_values"].to_pylist()]
    assert found == [{step} if step % 2 else None for step in steps]
    return steps[::2]


def steps_in(folder):
    """The steps on disk."""
    return steps_of(read_history(folder)) if list(folder.glob("part-*")) else []


def earlier_run(folder):
    """A run of three steps, each of which is a part; returns its state."""
    history = make(folder)
    for step in (1, 2, 3):
        record(history, step)
        history.flush()
    state = history.state_dict()
    history.close()
    return state


def start(script, *arguments, **environment):
    """Run a Python script, which can import this file, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def record_and_leave(folder, fail=False):
    """What a process does that does not close its history."""
    owner = Owner(make(folder))
    record(owner.history, 1, 2, 3)
    if fail:
        raise ValueError
