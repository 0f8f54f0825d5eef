"""However an analysis is made, its table is the same: by several threads, after it was killed, with little memory."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from full_disk import full_disk
from safetensors.torch import save_file

from fastrank import AnalyzeError, analyze
from fastrank.analysis import kept, measure
from fastrank.files import Lock

SHAPES = {"layers.0.q_proj": (40, 24), "layers.0.experts": (3, 8, 12), "layers.1.q_proj": (24, 24), "nan": (6, 5)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards with dtypes, a stack and a matrix without a rank; 6 matrices of 4 weights."""
    folder, generator = tmp_path_factory.mktemp("model"), torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    state["nan"][2, 3] = torch.nan
    state["layers.1.q_proj"] = state["layers.1.q_proj"].double()
    names = sorted(state)
    for i, part in enumerate((names[:2], names[2:]), 1):
        save_file({name: state[name] for name in part}, folder / f"model-0000{i}-of-00002.safetensors")
    return folder


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight is measured by itself, as large ones are, so that there is something between two of them."""
    monkeypatch.setattr(measure, "TOGETHER", 1)


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert a.attrs["left_out"] == b.attrs["left_out"]


def test_no_row_depends_on_the_number_of_jobs(checkpoint: Path) -> None:
    before, told = torch.get_num_threads(), list[tuple[float, float]]()
    tables = [analyze(checkpoint, jobs=jobs, progress=lambda *x: told.append(x)) for jobs in (1, 2, 3)]
    for table in tables[1:]:
        same(table, tables[0])
    assert torch.get_num_threads() == before
    assert len(told) == 3 * 5
    assert told[-1][0] == pytest.approx(told[-1][1])
    for wrong in (0, True):
        with pytest.raises(AnalyzeError, match="jobs: expected a number of at least 1"):
            analyze(checkpoint, jobs=wrong)


def test_an_error_in_a_job_is_raised_and_no_other_is_begun(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def fails(chunk: Any, *_: Any) -> Any:
        begun.append(chunk)
        raise MemoryError("of the second kind")

    monkeypatch.setattr(measure, "_rows", fails)
    with pytest.raises(MemoryError, match="of the second kind"):
        analyze(checkpoint, jobs=2)
    assert len(begun) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name == "fastrank-job"]


def test_a_run_that_was_killed_at_any_place_goes_on_to_the_same_table(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = analyze(checkpoint, keep=tmp_path)
    file = Path(whole.attrs["kept"])
    content, lines = file.read_bytes(), file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(SHAPES)
    ends = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]
    measured: list[str] = []
    rows = measure._rows
    monkeypatch.setattr(measure, "_rows", lambda chunk, *more: (measured.extend(chunk), rows(chunk, *more))[1])
    for end in [*ends, *(end - 1 for end in ends[1:]), ends[2] + 9]:
        file.write_bytes(content[:end])
        measured.clear()
        found = analyze(checkpoint, keep=tmp_path)
        same(found, whole)
        known = max(sum(stop <= end for stop in ends) - 2, 0)
        assert len(measured) == len(SHAPES) - known
        said = [f"known from an earlier run: {known} of 4 weights"] if known else []
        assert found.attrs["notes"] == said
        assert sorted(file.read_bytes().splitlines()) == sorted(content.splitlines())
    # A bit that has changed is not taken for a number, nor is what comes after it.
    place = ends[2] + len(lines[2]) // 2
    file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    same(analyze(checkpoint, keep=tmp_path), whole)


def test_other_files_and_other_settings_are_other_analyses(checkpoint: Path, tmp_path: Path) -> None:
    save_file({"w": torch.eye(3)}, tmp_path / "x.safetensors")
    first = analyze(tmp_path / "x.safetensors", keep=tmp_path / "keep")
    assert analyze(tmp_path / "x.safetensors", keep=tmp_path / "keep", energy=0.5).attrs["notes"] == []
    save_file({"w": torch.zeros(3, 3)}, tmp_path / "x.safetensors")
    again = analyze(tmp_path / "x.safetensors", keep=tmp_path / "keep")
    assert (first.rank_lower[0], again.rank_lower[0], again.attrs["notes"]) == (3, 0, [])
    assert len(list((tmp_path / "keep").iterdir())) == 3
    assert analyze({"w": torch.eye(2)}, keep=tmp_path / "none").attrs["kept"] is None
    assert not (tmp_path / "none").exists()


def test_where_rows_cannot_be_kept_the_table_is_the_same_and_it_is_said(checkpoint: Path, tmp_path: Path) -> None:
    whole = analyze(checkpoint)
    (tmp_path / "file").write_text("")
    found = analyze(checkpoint, keep=tmp_path / "file")
    same(found, whole)
    assert found.attrs["notes"] == [f"rows are not kept: {found.attrs['kept']}: File exists"]
    lock = Lock(Path(analyze(checkpoint, keep=tmp_path).attrs["kept"]).with_suffix(".lock"))
    assert lock.take()
    assert "another run is at the same analysis" in analyze(checkpoint, keep=tmp_path).attrs["notes"][0]
    lock.release()


@pytest.mark.parametrize("size", [0, 100, 2000, 4000])
def test_of_rows_a_full_disk_costs_none_that_was_kept(checkpoint: Path, tmp_path: Path, size: int) -> None:
    whole = analyze(checkpoint)
    with full_disk(size):
        found = analyze(checkpoint, keep=tmp_path)
    same(found, whole)
    assert found.attrs["notes"] == [f"rows are not kept: {found.attrs['kept']}: File too large"]
    assert Path(found.attrs["kept"]).stat().st_size == size
    after = analyze(checkpoint, keep=tmp_path)
    same(after, whole)
    assert bool(after.attrs["notes"]) is (size >= 2000)


KILLED = """
import sys, time
from fastrank import analyze
from fastrank.analysis import measure
measure.TOGETHER = 1
rows = measure._rows
measure._rows = lambda *given: (time.sleep(0.2), rows(*given))[1]
analyze(sys.argv[1], keep=sys.argv[2], jobs=2)
"""


def test_a_process_that_is_killed_leaves_what_it_has_found(checkpoint: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(checkpoint), str(tmp_path)])
    until = time.monotonic() + 120
    while not any(file.read_bytes().count(b"\n") > 1 for file in tmp_path.glob("*.rows")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    found = analyze(checkpoint, keep=tmp_path)
    assert "known from an earlier run" in found.attrs["notes"][0]
    same(found, analyze(checkpoint))


MEMORY = """
import gc, sys
from fastrank import analyze
from fastrank.analysis import measure

def peak(path):
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")  # the highest mark so far is forgotten
    before = int(next(x for x in open("/proc/self/status") if x.startswith("VmRSS")).split()[1])
    analyze(path, jobs=1)
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) - before

paths = sys.argv[1:]
analyze(paths[0], include=["0"])
print(*(peak(path) * 1024 for path in paths))
measure.give_back = lambda tensor: None
print(*(peak(path) * 1024 for path in paths))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is a file's")
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    """Of bfloat16 matrices: the largest as it is stored and in FP32. Where no page is given back it is the file."""
    own, count = 2**22, 24  # bytes of a matrix, and how many
    state = {f"{i}": torch.full((16, own // 32), 1.0 + i, dtype=torch.bfloat16) for i in range(count)}
    for part in range(3):
        save_file({n: x for n, x in state.items() if int(n) % 3 == part}, tmp_path / f"model-{part}-of-3.safetensors")
    torch.save(state, tmp_path / "x.pt")
    child = [sys.executable, "-c", MEMORY, str(tmp_path), str(tmp_path / "x.pt")]
    told = subprocess.run(child, capture_output=True, check=True).stdout.split()
    streamed, mapped = told[:2], told[2:]
    assert max(map(int, streamed)) < 3 * own + 2**23
    assert min(map(int, mapped)) > 0.8 * count * own


def test_what_is_no_memory_of_a_file_is_never_given_back(tmp_path: Path) -> None:
    from fastrank.analysis.pages import give_back

    state = {"w": torch.arange(2.0**16).reshape(16, -1)}
    give_back(state["w"])
    give_back(state["w"][:, ::2])
    assert torch.equal(state["w"].flatten(), torch.arange(2.0**16))
    torch.save(state, tmp_path / "x.pt")
    mapped = torch.load(tmp_path / "x.pt", mmap=True)["w"]
    give_back(mapped)
    assert torch.equal(mapped, state["w"])


def test_a_line_is_whole_or_none(tmp_path: Path) -> None:
    line = kept._sealed('["w", [{"rank": 3}]]')
    assert kept._opened(line) == '["w", [{"rank": 3}]]'
    assert all(kept._opened(line[:i]) is None for i in range(len(line)))
