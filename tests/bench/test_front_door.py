"""`pytest bench/` as a user runs it."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "pytest", "bench", "-q", "-p", "no:cacheprovider", *arguments]
    # Not as one of several workers, which these tests may be: pytest-benchmark times nothing there.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)


def test_rows_are_written_and_the_absent_are_named(tmp_path):
    chosen = ["--operation", "rank", "--workload", "square-128", "--quick", "--visits", "2", "--device", "cpu"]
    providers = ["--provider", "fastrank.rank_bounds", "--provider", "torch.linalg.svdvals"]
    absent = ["--provider", "cupy.linalg.svd"]
    out = run(*chosen, *providers, *absent, "--results", tmp_path / "r.csv", "--benchmark-json", tmp_path / "b.json")
    assert out.returncode == 0, out.stdout + out.stderr
    assert "4 passed, 2 skipped" in out.stdout
    assert "cupy.linalg.svd: not for cpu" in out.stdout
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    timed = [row for row in rows if row["operation"] == "rank"]
    assert {row["provider"] for row in timed} == {"fastrank.rank_bounds", "torch.linalg.svdvals"}
    for row in timed:
        assert row["status"] == "ok"
        assert 0 < float(row["wall_p20_ms"]) <= float(row["wall_ms"]) <= float(row["wall_p80_ms"])
        assert 0 < float(row["roof_share"]) < 1.12  # beyond is refused
        assert row["commit"]
        assert row["device"]
    roofs = {row["workload"] for row in rows if row["operation"] == "roof"}
    assert {"copy-64KiB", "copy-256MiB", "gemm-fp32", "gemm-fp64"} <= roofs
    saved = json.loads((tmp_path / "b.json").read_text())["benchmarks"]
    assert all("error" in benchmark["extra_info"] for benchmark in saved)
    assert {benchmark["group"] for benchmark in saved} == {"rank | square-128"}


def test_a_deadline_loses_only_the_rest(tmp_path):
    out = run("--operation", "norm", "--quick", "--device", "cpu", "--deadline", "0", "--results", tmp_path / "r.csv")
    assert out.returncode == 0, out.stdout + out.stderr
    assert "after the deadline of 0 s" in out.stdout
    assert "passed" not in out.stdout.splitlines()[-1]
