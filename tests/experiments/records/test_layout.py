"""The parts of a history are found, in the order of their steps."""

from pathlib import Path

import pytest

import fastrank
from fastrank.experiments.records import history_parts


def test_parts_are_in_order_also_beyond_five_digits(tmp_path: Path) -> None:
    for number in (100_000, 99_999, 0):
        (tmp_path / f"part-{number:05d}.parquet").touch()
    assert [file.name for file in history_parts(tmp_path)] == [
        "part-00000.parquet",
        "part-99999.parquet",
        "part-100000.parquet",
    ]
    with pytest.raises(fastrank.HistoryError, match="holds no part"):
        history_parts(tmp_path / "nothing")
