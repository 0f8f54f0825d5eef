"""The last rows as plain numbers are those of the table, and are read where there is no pyarrow."""

from __future__ import annotations

import sys

import pytest
import torch
from made_history import make

import fastrank

OPTIONS = {
    "default": {},
    "spectra now and then": {"spectrum": ["singular_values", "effective_rank"], "spectrum_every": 2},
    "several tolerances": {"tolerance": [fastrank.Tolerance(), fastrank.Tolerance(0.04)], "energy": 0.9},
    "gradients": {"of": ("weight", "gradient")},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_they_are_those_of_the_table(mlp, train, options):
    """Of each step, one of which has a matrix that is not finite: the same values, of the same types, in one order."""
    optimizer = fastrank.SGD(mlp.parameters(), lr=0.1)
    with fastrank.RankTracker(mlp, optimizer, **OPTIONS[options]) as tracker:
        for step in range(4):
            if step == 3:
                mlp[0].weight.data[0, 0] = torch.nan
            train(mlp, optimizer, 1, start=step)
            seen = tracker.latest()
            table = tracker.to_arrow()
            rows = table.slice(len(table) - len(tracker.names)).to_pylist()
            expected = {row.pop("name"): row for row in rows}
            assert repr(seen) == repr(expected)  # with which True is not 1, and 1 not 1.0
        assert seen["0.weight"]["status"] == "NONFINITE"
        assert seen["0.weight"]["rank_lower"] is None


def test_there_are_none_before_the_first_step(mlp):
    with fastrank.RankTracker(mlp) as tracker:
        assert tracker.latest() == {}
        tracker.step()
        assert list(tracker.latest()) == tracker.names


CALLS = {
    "to_arrow": lambda tracker, path: tracker.to_arrow(),
    "to_pandas": lambda tracker, path: tracker.to_pandas(),
    "write_parquet": lambda tracker, path: tracker.write_parquet(path),
    "read_history": lambda tracker, path: fastrank.read_history(path),
    "directory": lambda tracker, path: make(path),
}


@pytest.mark.parametrize("call", CALLS)
def test_whatever_takes_pyarrow_says_where_it_comes_from(mlp, train, tmp_path, monkeypatch, call):
    optimizer = fastrank.SGD(mlp.parameters(), lr=0.1)
    monkeypatch.setitem(sys.modules, "pandas" if call == "to_pandas" else "pyarrow", None)
    with fastrank.RankTracker(mlp, optimizer) as tracker:
        train(mlp, optimizer, 2)
        assert tracker.latest()["0.weight"]["step"] == 2
        with pytest.raises(ModuleNotFoundError, match=r"is not installed: pip install 'fastrank\[history\]'$"):
            CALLS[call](tracker, tmp_path / "history")
    assert list(tmp_path.iterdir()) == []
