"""What is shown is what is on disk, and only what has changed is read again."""

from pathlib import Path

import numpy as np
import pytest
from planted_history import planted

import fastrank
from fastrank.experiments.show import reader as module
from fastrank.experiments.show.reader import Reader


def rank(step: int, matrix: int) -> int | None:
    return None if (step, matrix) == (3, 1) else 90 - step - matrix


def part(folder: Path, number: int, *steps: int) -> None:
    fastrank.write_history(planted(steps, 3, rank), folder / f"part-{number:05d}.parquet")


def test_it_reads_shares_shapes_and_the_last_rows(tmp_path: Path) -> None:
    part(tmp_path, 0, 1, 2, 3)
    part(tmp_path, 1, 4)
    history = Reader(tmp_path).read()
    assert history.steps.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(history.shares[1], [0.88, 0.87, np.nan, 0.85])
    standing = history.standing
    assert (standing.names, standing.first, standing.last) == ([f"layer.{i}.weight" for i in range(3)], 1, 4)
    assert standing.latest["layer.2.weight"]["rank_lower"] == 84
    assert standing.shapes == [(100, 107)] * 3


def test_a_file_is_read_as_well_even_without_what_is_not_needed(tmp_path: Path) -> None:
    table = planted([1, 2], 2, rank).drop_columns(["stable_rank", "status", "frobenius_norm"])
    fastrank.write_history(table, tmp_path / "one.parquet")
    history = Reader(tmp_path / "one.parquet").read()
    assert history.shares.shape == (2, 2)
    assert history.standing.owner == "one.parquet"


def test_only_new_parts_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = module._read_part
    monkeypatch.setattr(module, "_read_part", lambda file: (read.append(file.name), whole(file))[1])
    reader = Reader(tmp_path)
    assert not reader.changed()
    part(tmp_path, 0, 1)
    assert reader.changed()
    reader.read()
    assert not reader.changed()
    part(tmp_path, 1, 2)
    reader.read()
    part(tmp_path, 1, 2, 3)  # the same part, with more rows
    assert reader.changed()
    assert reader.read().steps.tolist() == [1, 2, 3]
    assert read == ["part-00000.parquet", "part-00001.parquet", "part-00001.parquet"]


def test_parts_that_a_resumed_training_has_removed_are_forgotten(tmp_path: Path) -> None:
    for number in range(3):
        part(tmp_path, number, number + 1)
    reader = Reader(tmp_path)
    assert len(reader.read().steps) == 3
    (tmp_path / "part-00002.parquet").unlink()
    part(tmp_path, 1, 2, 5)
    assert reader.read().steps.tolist() == [1, 2, 5]


def test_a_part_that_goes_while_it_is_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part(tmp_path, 0, 1)
    part(tmp_path, 1, 2)
    whole = module._read_part

    def late(file: Path) -> object:
        (tmp_path / "part-00001.parquet").unlink(missing_ok=True)
        return whole(file)

    monkeypatch.setattr(module, "_read_part", late)
    assert Reader(tmp_path).read().steps.tolist() == [1]


@pytest.mark.parametrize("content", [b"PAR1", None])
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content:
        (tmp_path / "part-00000.parquet").write_bytes(content)
    with pytest.raises(fastrank.HistoryError, match="part-00000.parquet: .*truncated" if content else "holds no part"):
        Reader(tmp_path).read()
