"""The long run's own judgement: it sees every family, it sees a lie, and it goes on where it was ended."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
import torch
import truth
import truth_ledger
import truth_made
import truth_paths
import truth_report

from fastrank import RankBounds, Tolerance, linalg

CPU = torch.device("cpu")
FIRST = [
    ("zero", (3, 2), torch.float16, Tolerance(3.82253779577971e-05, "spectral")),
    ("identity", (3, 2), torch.float32, Tolerance(5.600265186807292e-06, "absolute")),
]
SLICED = {"integers, 10", "integers, 13", "integers, 13, forced"}
PATHS = {"compiled", "torch", "sketch", "tracker", "tracker, torch"} | SLICED


def specifications(count, largest=24, seed=0, most=4):
    return list(truth_made.specifications(count, largest, seed, most=most))


def counted(wanted, **options):
    ledger = truth_ledger.Ledger(None, "")
    truth.count(wanted, CPU, ledger, Event(), **options)
    return ledger


def test_every_family_in_every_way_and_no_false_bound():
    rows = counted(specifications(336, 48, seed=1)).summary()
    assert {row.path for row in rows} == PATHS
    families = truth_ledger.totals(truth.first_path(rows), "family")
    assert families.keys() == truth_made.FAMILIES.keys()
    assert min(t.matrices for t in families.values()) >= 8
    assert sum(row.tally.wrong + row.tally.ambiguous for row in rows) == 0
    # Only singular values that equal tau, or nearly, stay open.
    near = ("clustered 1e-", "one at tau", "hadamard", "pythagorean", "saddle at tau", "integers", "geometric")
    assert sum(t.last for name, t in families.items() if not name.startswith(near)) <= 5


def test_cases_cover_dtypes_tolerances_and_sizes():
    wanted = specifications(4000, 64)
    assert {w.dtype for w in wanted} == set(truth_made.DTYPES)
    assert {w.tolerance.relative_to for w in wanted} == {"frobenius", "spectral", "absolute"}
    sides = [side for w in wanted for side in (w.rows, w.cols)]
    assert (min(sides), max(sides)) == (1, 64)
    assert wanted == specifications(4000, 64)
    tail = [max(w.rows, w.cols) for w in specifications(4000, 512)]
    assert 0 < sum(side > truth_made.COMMON for side in tail) < 0.05 * len(tail)
    assert all(w.size * w.rows * w.cols <= truth_made.ELEMENTS for w in specifications(4000, 512, most=64))


def test_a_seed_has_the_matrices_that_it_always_had():
    """Or nobody could look again at what a run has found."""
    wanted = specifications(8, 96)
    assert [(w.family, (w.rows, w.cols), w.dtype, w.tolerance) for w in wanted] == FIRST
    for one, other in zip(*(map(truth_made.make, specifications(200, 24)) for _ in range(2)), strict=True):
        assert torch.equal(one.matrices, other.matrices)
        assert one.tolerance == other.tolerance
        assert torch.equal(one.truth.lower, other.truth.lower)


def test_ties_are_made_and_told():
    """Of exact ties the truth is known, and FP64 leaves them open."""
    wanted = [w for w in specifications(4000, 16) if w.family in ("hadamard", "pythagorean")]
    ties = 0
    for made in map(truth_made.make, wanted):
        assert not made.truth.ambiguous.any()
        _, last = truth_paths._ranks(made.matrices, made.tolerance)
        ties += int((last.lower < last.upper).sum())
        assert (last.lower <= made.truth.lower).all()
        assert (last.upper >= made.truth.upper).all()
    assert ties > 0.4 * sum(w.size for w in wanted)


forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later, where NumPy has threads


@forks
def test_a_summary_is_the_same_by_one_process_and_by_two():
    wanted = specifications(240, seed=5)
    assert counted(wanted, jobs=2).summary() == counted(wanted).summary()


@pytest.mark.parametrize("off", [-1, 1])
def test_a_false_bound_is_seen_and_its_matrix_is_kept(off, monkeypatch, tmp_path, capsys):
    honest = linalg.rank_bounds

    def lying(*args, **options):
        bounds = honest(*args, **options)
        return RankBounds(bounds.lower + off, bounds.upper + off, bounds.status)

    monkeypatch.setattr(linalg, "rank_bounds", lying)
    wanted = [w for w in specifications(400, most=1) if w.family == "low_rank"][:3]
    rows = counted(wanted, folder=tmp_path).summary()
    assert all(row.tally.wrong == row.tally.matrices for row in rows if row.path in ("compiled", "torch"))
    assert "FALSE: Specification" in capsys.readouterr().out
    kept = truth_ledger.kept(tmp_path / f"false-{wanted[0].number}.npz")
    matrices, tolerance = truth_made.matrices_of(wanted[0])
    assert torch.equal(kept[0].matrix, matrices[0])
    assert (kept[0].tolerance, kept[0].matrix.dtype) == (tolerance, wanted[0].dtype)
    assert kept[0].name.startswith("compiled: ")


def test_what_was_counted_is_not_counted_again(tmp_path, monkeypatch):
    """A run that was ended after a few batches, and the rest: together they are the whole run."""
    wanted, path = specifications(120), tmp_path / "new" / "ledger.sqlite"
    seen = []
    monkeypatch.setattr(
        truth, "judge", lambda made, device: seen.append(made.specification.number) or honest(made, device)
    )
    honest = truth_paths.judge
    for part in (wanted[:7], wanted, wanted):
        ledger = truth_ledger.Ledger(path, "one")
        truth.count(part, CPU, ledger, Event())
        ledger.close()
    assert seen == [w.number for w in wanted]
    again = truth_ledger.Ledger(path, "one")
    assert again.summary() == counted(wanted).summary()
    assert again.summary(7) == counted(wanted[:7]).summary()
    assert [k[:4] for k in again.kept()] == [k[:4] for k in counted(wanted[::-1]).kept()]
    assert truth_ledger.Ledger(path, "another").done() == set()


def test_a_fingerprint_is_of_all_that_was_asked_for():
    assert truth_ledger.fingerprint(1, "a") == truth_ledger.fingerprint(1, "a") != truth_ledger.fingerprint(2, "a")


def test_a_summary_is_written_read_and_tabled(tmp_path):
    rows = counted(specifications(60)).summary()
    path, before = tmp_path / "folder" / "summary.csv", tmp_path / "before.csv"
    truth_ledger.save(path, rows)
    assert truth_ledger.load(path) == rows
    truth_ledger.save(before, [row for row in rows if row.family == "zero"])
    table = truth_report.write(path, before).read_text()
    (zero,) = re.findall(r"^\| zero .*$", table, re.MULTILINE)
    assert zero == "| zero | 4 | 0 | 0 | 0.00% | 0.00% | 0.00% | 0.00% |"
    assert "| identity | 4 | 0 | 0 | 0.00% | 0.00% |\n" in table


def test_integers_are_compared_with_fp64_on_the_same_matrices(tmp_path):
    """By as many products as the tolerance asks for, forced where none serve it; FP64 matrices are left out."""
    wanted = specifications(300, 24, seed=3)
    ledger = counted(wanted)
    rows = ledger.beside(10**9)
    sums = truth_ledger.totals(rows, "path")
    narrow = [s for s in wanted if s.dtype != torch.float64]
    assert sum(sums[path].matrices for path in SLICED) == sum(s.size for s in narrow)
    assert min(sums[path].matrices for path in SLICED) > 10
    by_way = {s.number: set(truth_paths.paths(CPU, s.dtype, truth_made.make(s).tolerance)) & SLICED for s in wanted}
    assert all(len(ways) == (s.dtype != torch.float64) for s, ways in zip(wanted, by_way.values(), strict=True))
    for path in SLICED:
        name = truth_paths.beside(path)[1]
        assert sums[name][:2] == sums[path][:2]
        assert sums[name].open <= sums[path].open
        assert sums[path].wrong == 0
        these = [s for s in wanted if path in by_way[s.number]]
        assert sums[name] == truth_ledger.totals(_of(counted(these), "torch"), "path")["torch"]
    truth_ledger.save(tmp_path / "integers.csv", rows)
    table = truth_report.write_beside(tmp_path / "integers.csv").read_text()
    t, fp64 = sums["integers, 10"], sums["integers, 10: FP64"]
    assert (
        f"| integers, 10 | {t.matrices} | 0 | 0 | {t.open / t.matrices:.2%} | {fp64.open / t.matrices:.2%} |" in table
    )
    both = [truth_ledger.totals([row for row in rows if row.path == path], "family") for path in sums]
    assert len(both) == 6
    assert len(re.findall(r"^\| hadamard \|", table, re.MULTILINE)) == any("hadamard" in found for found in both)


def _of(ledger, path):
    return [row for row in ledger.summary() if row.path == path]


def test_a_false_bound_of_integers_is_seen(monkeypatch):
    """One more than what slices make of it."""
    honest = truth_paths.integer_gram
    monkeypatch.setattr(truth_paths, "integer_gram", lambda stack, **given: honest(torch.ones_like(stack), **given))
    rows = counted([w for w in specifications(400, most=1) if w.family == "identity" and w.rows > 1]).summary()
    assert {row.path for row in rows if row.tally.wrong} == {row.path for row in rows} & SLICED != set()


def test_the_program_prints_a_table_and_writes_its_files(tmp_path):
    program, out = Path(truth.__file__), tmp_path / "out"
    command = [sys.executable, str(program), "--matrices", "84", "--largest", "16", "--out", str(out)]
    command += ["--results", str(out / "s.csv"), "--report", "--worst", str(out / "worst.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    printed = done.stdout.splitlines()
    names = [line[:30].strip() for line in printed]
    assert names[1:-10] == list(truth_made.FAMILIES)
    assert set(names[-9:-1]) == PATHS
    assert re.match(r"counted 84 matrices on cpu in \d+ s$", printed[-1])
    assert len(truth_ledger.kept(out / "worst.npz")) >= len(truth_made.FAMILIES)
    assert (out / "s.md").exists()
    assert {row.path for row in truth_ledger.load(out / "integers.csv")} >= SLICED
    assert (out / "integers.md").exists()


def test_when_it_is_stopped_it_tells_what_it_has_found(tmp_path):
    """SIGTERM is what a time limit sends: the tally is there, and nobody takes it for a whole run."""
    program, path = Path(truth.__file__), tmp_path / "folder" / "tally.csv"
    command = [sys.executable, str(program), "--matrices", "100000", "--largest", "8", "--results", str(path)]
    command += ["--jobs", "2", "--out", str(tmp_path)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while not (ledger := tmp_path / "ledger.sqlite").exists() or not truth_ledger.written(ledger):
        assert running.poll() is None
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGTERM)  # as the drill does: all its processes hear of it
    printed, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    said = re.search(r"^stopped after (\d+) of 100000 matrices$", printed, re.MULTILINE)
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["path"] == "compiled"]
    assert list(rows[0]) == [*truth_ledger.FIELDS, "share"]
    assert sum(int(row["matrices"]) for row in rows) == int(said[1]) > 0


@forks
def test_on_a_gpu_processes_make_the_matrices_and_this_one_counts(monkeypatch):
    """In their order, and no process but this one uses the device."""
    wanted, device = specifications(40), torch.device("meta")
    monkeypatch.setattr(truth, "judge", lambda made, where: (os.getpid(), where, made))
    with truth.workers(2, device) as outcomes_of:
        found = list(outcomes_of(wanted))
    assert {one[:2] for one in found} == {(os.getpid(), device)}
    assert [made.specification for _, _, made in found] == wanted
    for specification, (_, _, made) in zip(wanted, found, strict=True):
        assert torch.equal(made.matrices, truth_made.matrices_of(specification)[0])
