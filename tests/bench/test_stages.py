"""Stages: what one of them does to the others, which is nothing."""

from __future__ import annotations

import csv
import os
import sys
import time

import pytest
import stages
from stages import Stage, run


def python(script, name="a stage", limit=20.0, **options):
    return Stage(name, [sys.executable, "-c", script], limit, **options)


@pytest.fixture
def statuses(tmp_path):
    def of(*listed):
        return [outcome.status for outcome in run("drill", listed, tmp_path, os.environ)]

    return of


def test_a_stage_that_hangs_and_one_that_crashes_do_not_stop_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "GRACE", 0.5)
    hangs = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('busy', flush=True); time.sleep(60)"
    )
    listed = [
        python(hangs, "hangs", limit=1.5),
        python("import os; print('about to', flush=True); os.abort()", "crashes"),
        python("raise SystemExit(3)", "fails"),
        Stage("not there", ["no-such-program"], 5.0),
        python("", "lacks", needs=["torch", "no_such_package"]),
        python("print('whole'); print()", "last"),
    ]
    started = time.monotonic()
    found = run("drill", listed, tmp_path, os.environ)
    assert time.monotonic() - started < 15
    assert [outcome.status for outcome in found] == ["too long", "failed", "failed", "skipped", "skipped", "ok"]
    says = [outcome.says for outcome in found]
    assert says[0] == "busy"
    assert says[1].startswith("exit status -6")
    assert says[2] == "exit status 3: "
    assert says[3:] == ["no-such-program: No such file or directory", "needs no_such_package", "whole"]
    with (tmp_path / "stages.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["command"], row["stage"], row["status"]) for row in rows] == [
        ("drill", stage.name, outcome.status) for stage, outcome in zip(listed, found, strict=True)
    ]
    log = (tmp_path / "log.txt").read_text()
    assert [log.index(text) for text in ("busy", "about to", "whole")] == sorted(
        log.index(text) for text in ("busy", "about to", "whole")
    )


def test_what_a_stage_has_started_ends_with_it(tmp_path, statuses):
    """A time limit that left grandchildren behind would leave them the machine."""
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep({})\n"
    )
    for left, status in (("60", "too long"), ("0", "ok")):
        assert statuses(python(script.format(left), limit=2.0)) == [status]
        child = int((tmp_path / "pid").read_text())
        for _ in range(50):  # until the system has taken note
            if not _runs(child):
                break
            time.sleep(0.1)
        assert not _runs(child)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_stages_of_a_group_run_side_by_side(tmp_path):
    """Each waits for the other's file: one after the other, neither would end."""
    script = (
        "import pathlib, sys, time\n"
        "own, other = (pathlib.Path({folder!r}, name) for name in ({own!r}, {other!r}))\n"
        "own.touch()\n"
        "while not other.exists(): time.sleep(0.02)\n"
    )
    names = {"folder": str(tmp_path)}
    pair = [
        python(script.format(own=own, other=other, **names), own, limit=10.0, group="pair")
        for own, other in (("a", "b"), ("b", "a"))
    ]
    assert [outcome.status for outcome in run("drill", pair, tmp_path, os.environ)] == ["ok", "ok"]


def test_a_long_output_keeps_its_beginning_and_its_end(tmp_path, monkeypatch, statuses):
    monkeypatch.setattr(stages, "MOST_LOG", 1000)
    assert statuses(python("print('first'); print('x' * 10**6); print('last')")) == ["ok"]
    log = (tmp_path / "log.txt").read_text()
    assert len(log) < 1200
    assert all(word in log for word in ("first", "last", "bytes left out"))


def test_a_log_that_is_kept_names_no_folder_of_the_machine(tmp_path, statuses):
    assert statuses(python(f"print('File {stages.ROOT}/bench/x.py, rows in {tmp_path}/y.csv')")) == ["ok"]
    assert "File bench/x.py, rows in y.csv" in (tmp_path / "log.txt").read_text()


def test_what_a_stage_needs_is_looked_for_where_it_looks(tmp_path, monkeypatch):
    """Unpacked by the stage before, into a folder that the runner does not import from."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path)])
    folder = tmp_path / "carried" / "only_there"
    unpacks = python(
        f"import pathlib; p = pathlib.Path({str(folder)!r}); p.mkdir(parents=True); (p / '__init__.py').touch()"
    )
    needs = python("import only_there, torch; print('found')", needs=["only_there", "torch"])
    environment = os.environ | {"PYTHONPATH": str(folder.parent)}
    outcomes = run("drill", [needs, unpacks, needs], tmp_path, environment)
    assert [outcome.says for outcome in outcomes] == ["needs only_there", "", "found"]
    assert needs.missing(os.environ) == ["only_there"]


def test_a_stage_has_the_environment_that_it_is_given(tmp_path):
    (outcome,) = run("drill", [python("import os; print(os.environ['WORD'])")], tmp_path, os.environ | {"WORD": "here"})
    assert outcome.says == "here"
