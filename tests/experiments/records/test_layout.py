"""Files that are never half written."""

import errno
import os
import stat
from pathlib import Path

import pytest
from full_disk import full_disk

from fastrank.experiments.files import write_atomically, write_csv
from fastrank.experiments.records.layout import Layout


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_file_is_replaced_and_others_may_read_it(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "made" / "file"
    before = os.umask(umask)
    try:
        write_atomically(path, b"one")
        write_atomically(path, b"two")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match="large") as caught, full_disk():
        write_atomically(path, b"n" * 5000)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_csv_keeps_every_digit_and_leaves_none_empty(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("x", "y"), [{"x": 0.1 + 0.2, "y": None}, {"x": 1, "y": "a,b"}])
    assert (tmp_path / "a.csv").read_text() == 'x,y\n0.30000000000000004,\n1,"a,b"\n'


def test_forgetting_a_trial_spares_the_others(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for trial in ("one", "two"):
        write_atomically(layout.checkpoint(trial), b"c")
        write_atomically(layout.history(trial) / "part-00000.parquet", b"h")
    layout.forget("one")
    layout.forget("three")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["two.pt"]
    assert [path.name for path in (tmp_path / "history").iterdir()] == ["two"]


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 255), b"one")
    assert [len(file.name) for file in tmp_path.iterdir()] == [255]
