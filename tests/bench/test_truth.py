"""The long run's own judgement: it sees every family, and it sees a lie."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import truth

from fastrank import RankBounds, linalg

CPU = torch.device("cpu")


def test_five_hundred_matrices_and_no_false_bound():
    tallies = truth.tally(500, 128, CPU, seed=1)
    assert sum(t.matrices for t in tallies.values()) == 500
    assert min(t.matrices for t in tallies.values()) >= 35
    assert sum(t.wrong for t in tallies.values()) == 0
    # Only singular values that equal tau stay open, as a geometric spectrum may have one.
    assert sum(t.unresolved for t in tallies.values()) <= 5


def test_cases_cover_dtypes_tolerances_and_sizes():
    made = list(truth.cases(1000, 64, seed=0))
    assert {m.dtype for _, m, _ in made} == set(truth.SCALES)
    assert {t.relative_to for *_, t in made} == {"frobenius", "spectral", "absolute"}
    sides = [side for _, m, _ in made for side in m.shape]
    assert (min(sides), max(sides)) == (1, 64)
    again = list(truth.cases(1000, 64, seed=0))
    assert all(torch.equal(a, b) for (_, a, _), (_, b, _) in zip(made, again, strict=True))


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
    assert "without kernels on cpu" in lines[-1]
