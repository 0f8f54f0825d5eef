"""Worst cases: matrices that were the nearest calls of a long run of `make truth`, counted once more in every way.

`worst.npz` is what `bench/truth.py --worst` has written: for each family the certified rank with the singular value
that is nearest to tau, and of all families the largest growth of factors without pivots and the widest brackets of a
count.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import truth_ledger
import truth_made
import truth_paths

from fastrank import linalg
from fastrank.testing import ExactMatrix

CPU = torch.device("cpu")
CASES = truth_ledger.kept(Path(__file__).with_name("worst.npz"))


def test_there_are_cases_of_every_family():
    assert {case.name.partition(",")[0] for case in CASES} >= truth_made.FAMILIES.keys() - {"zero"}
    assert {case.name.rpartition(" ")[0].rpartition(" ")[2] for case in CASES} == {"nearest", "growth", "widest"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(",", ""))
def test_a_nearest_call_is_right_in_every_way(case):
    rank = ExactMatrix(case.matrix).rank(case.tolerance)
    assert case.rank == (rank, rank)
    ways = truth_paths.paths(CPU, case.matrix.dtype, case.tolerance)
    for name, way in ways.items():
        for bounds in way(case.matrix[None], case.tolerance):
            assert bounds.lower <= rank <= bounds.upper, name


def test_nearest_calls_are_certified():
    """Nearly all, whatever the constants of the proofs are by now."""
    nearest = [case for case in CASES if ", nearest " in case.name]
    bounds = [linalg.rank_bounds(case.matrix, case.tolerance) for case in nearest]
    assert sum(bool(b.certified) for b in bounds) >= 0.8 * len(nearest) > 30
