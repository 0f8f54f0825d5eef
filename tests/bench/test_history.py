"""The size of a history: within the budget a value, without a bit lost, and only because of how it is stored."""

from __future__ import annotations

import history
import numpy as np
import pyarrow.parquet as pq
import pytest

import fastrank

STEPS, MATRICES = 1024, 60  # one part and some rows, as large as those of a long run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    history.write(folder, STEPS, MATRICES)
    return folder


def test_a_value_costs_no_more_than_the_budget_allows(folder, tmp_path):
    result = history.measure(folder, 0.0, rounds=2)
    assert result.parts == 2
    assert result.values == STEPS * MATRICES * history.METRICS
    assert result.bytes_per_value <= history.BUDGET
    pq.write_table(fastrank.read_history(folder), tmp_path / "naive.parquet", compression="zstd")
    assert (tmp_path / "naive.parquet").stat().st_size / result.values > 1.2 * history.BUDGET


def test_no_bit_is_lost(folder):
    whole = fastrank.read_history(folder)
    columns = [name for name in whole.column_names if name not in ("step", "name", "rows", "cols")]
    assert len(columns) == history.METRICS + 1
    made = np.concatenate(list(history.measurements(STEPS, MATRICES, columns)))
    for i, name in enumerate(columns):
        if name != "status":
            assert np.array_equal(whole[name].to_numpy().reshape(STEPS, MATRICES), made[:, :, i]), name


def test_made_up_measurements_are_those_of_a_training_run():
    columns = ["rank_lower", "rank_upper", "frobenius_norm", "nuclear_norm", "stable_rank"]
    made = np.concatenate(list(history.measurements(3000, 8, [*columns, *columns])))
    assert made.shape == (3000, 8, 10)
    lower, upper = made[:, :, 0], made[:, :, 1]
    assert np.all(lower <= upper)
    assert 0 < np.mean(np.diff(lower, axis=0) != 0) < 0.01, "constant but for a step now and then"
    for i in (2, 3, 4):
        changes = np.diff(np.log(made[:, :, i]), axis=0)
        assert 1e-4 < changes.std() < 1e-3
        assert np.unique(made[:, :, i]).size == made[:, :, i].size
        assert len(np.unique(made[:, :, i].view(np.int64) & 0xFF)) == 256, "the last bits are used"


def test_the_program_prints_what_it_found(capsys, monkeypatch, tmp_path):
    command = ["history.py", "--steps", "300", "--matrices", "5", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    assert history.main() == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{300 * 5 * 8:,} values in 1 parts: ")
    assert "everything read in " in out
