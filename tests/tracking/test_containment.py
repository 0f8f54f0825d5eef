"""Containment: exact ranks and norms are where the rows of a tracker say they are."""

from __future__ import annotations

import math

import torch
from exact_cases import cases, inside
from torch import nn

from fastrank import RankTracker, Tolerance

TOLERANCES = [Tolerance(), Tolerance(0.3, "spectral"), Tolerance(0.25, "absolute"), Tolerance(0.5)]


def test_rows_hold_the_exact_answers(counting):
    """Two steps, because the second starts where the first has ended. sigma_1 is known to 5e-6 at least."""
    made = {f"w{i}": case for i, case in enumerate(cases(90, len(counting), (torch.float32, torch.float64), least=1))}
    model = nn.ParameterDict({name: nn.Parameter(case.matrix) for name, case in made.items()})
    tracker = RankTracker(model, tolerance=TOLERANCES)
    for _ in range(2):
        tracker.step()
        rows = tracker.latest()
        assert rows.keys() == made.keys()
        for name, row in rows.items():
            case = made[name]
            for i, tolerance in enumerate(TOLERANCES):
                suffix = f"@{tolerance.suffix}" if i else ""
                rank = case.exact.rank(tolerance)
                assert row[f"rank_lower{suffix}"] <= rank <= row[f"rank_upper{suffix}"], (case.name, tolerance)
            top, stable = case.exact.singular_values()[0], case.exact.stable_rank()
            for value, ball in ((row["spectral_norm"], top), (row["stable_rank"], stable)):
                assert value is not None, case.name
                if math.isfinite(value):
                    assert inside(value * (1 - 2e-5) - 2.0**-1074, ball, value * (1 + 2e-5) + 2.0**-1074), case.name
                else:
                    assert ball > 1.79e308
