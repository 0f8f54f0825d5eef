"""The long run's own judgement: it sees every family, and it sees a lie."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import truth

from fastrank import RankBounds, linalg

CPU = torch.device("cpu")
FIRST = [
    ("zero", (1, 3), torch.bfloat16),
    ("identity", (10, 8), torch.float64),
    ("one_large", (51, 60), torch.float64),
    ("one_small", (2, 19), torch.float64),
]


def test_five_hundred_matrices_and_no_false_bound():
    tallies = truth.tally(500, 128, CPU, seed=1)
    assert sum(t.matrices for t in tallies.values()) == 500
    assert min(t.matrices for t in tallies.values()) >= 35
    assert sum(t.wrong for t in tallies.values()) == 0
    # Only singular values that equal tau stay open, as a geometric spectrum may have one.
    assert sum(t.unresolved for t in tallies.values()) <= 5


def test_cases_cover_dtypes_tolerances_and_sizes():
    wanted = list(truth.specifications(1000, 64, seed=0))
    assert {w.options["dtype"] for w in wanted} == set(truth.SCALES)
    assert {w.options["tolerance"].relative_to for w in wanted} == {"frobenius", "spectral", "absolute"}
    sides = [side for w in wanted for side in w.arguments[1:]]
    assert (min(sides), max(sides)) == (1, 64)
    assert wanted == list(truth.specifications(1000, 64, seed=0))


def test_a_seed_has_the_matrices_that_it_always_had():
    """Or nobody could look again at what a run has found."""
    made = [truth.make(w) for w in truth.specifications(4, 64, seed=0)]
    assert [(m.family, tuple(m.matrix.shape), m.matrix.dtype) for m in made] == FIRST


forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later, where NumPy has threads


@forks
@pytest.mark.parametrize("jobs", [1, 2])
def test_processes_make_the_same_matrices_in_the_same_order(jobs):
    wanted = list(truth.specifications(40, 24, seed=2))
    with truth.makers(jobs) as made_of:
        for made, specification in zip(made_of(wanted), wanted, strict=True):
            expected = truth.make(specification)
            assert (made.family, made.tolerance) == (expected.family, expected.tolerance)
            assert made.matrix.dtype == expected.matrix.dtype
            assert torch.equal(made.matrix, expected.matrix)
            assert made.truth == expected.truth


@forks
def test_a_tally_is_the_same_by_one_process_and_by_two():
    assert truth.tally(120, 40, CPU, seed=5, jobs=2) == truth.tally(120, 40, CPU, seed=5)


@pytest.mark.parametrize("off", [-1, 1])
def test_a_false_bound_is_seen(off, monkeypatch):
    honest = linalg.rank_bounds

    def lying(*args, **options):
        bounds = honest(*args, **options)
        return RankBounds(bounds.lower + off, bounds.upper + off, bounds.status)

    monkeypatch.setattr(linalg, "rank_bounds", lying)
    tallies = truth.tally(len(truth.FAMILIES), 20, CPU)
    assert all(t.wrong == 1 for t in tallies.values())


def test_the_program_prints_a_table():
    program = Path(truth.__file__)
    command = [sys.executable, str(program), "--matrices", "28", "--largest", "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0].strip() for line in lines[1:-1]] == [*truth.FAMILIES, "all"]
    assert lines[-2].split()[1:3] == ["28", "0"]
    assert "by the kernels on cpu" in lines[-1]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_when_it_is_stopped_it_tells_what_it_has_found(tmp_path, jobs):
    """SIGTERM is what a time limit sends: the tally is there, and nobody takes it for a whole run."""
    program, path = Path(truth.__file__), tmp_path / "folder" / "tally.csv"
    command = [sys.executable, str(program), "--matrices", "1000000", "--largest", "8", "--results", str(path)]
    command += ["--jobs", jobs]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(1.0)
    while not handles_sigterm(running.pid):
        time.sleep(0.1)
    time.sleep(3.0)
    os.killpg(running.pid, signal.SIGTERM)  # as the drill does: all its processes hear of it
    printed, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    said = re.search(r"^stopped after (\d+) of 1000000 matrices$", printed, re.MULTILINE)
    with path.open(newline="") as file:
        rows = {row["family"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*truth.FAMILIES, "all"]
    assert list(rows["all"]) == ["family", "matrices", "wrong", "open", "unresolved"]
    assert rows["all"]["matrices"] == said[1]
    assert sum(int(rows[family]["matrices"]) for family in truth.FAMILIES) == int(said[1]) > 0


def handles_sigterm(process: int) -> bool:
    """Whether a process has a handler for it by now: before that, it would just end."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())[1]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_nothing_is_counted_twice_or_half():
    stopped = threading.Event()
    stopped.set()
    assert all(t == truth.Tally() for t in truth.tally(100, 8, CPU, stopped=stopped).values())
