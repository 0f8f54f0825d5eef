"""The drill for a CUDA machine, as far as it can be seen without one: plans, what is kept, what is brought along."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gpu
import gpu_adopt
import gpu_carry
import gpu_install
import gpu_names
import gpu_plan
import gpu_profile
import gpu_reproduce
import gpu_tables
import pytest
import results
import stages
import torch
from gpu_plan import Drill
from stages import Outcome, Stage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def drill(tmp_path):
    return Drill(rows=tmp_path / "a-gpu.csv", folder=tmp_path / "a-gpu", carry=tmp_path / "carry")


@pytest.mark.parametrize("name", gpu_plan.PLANS)
def test_the_limits_of_a_command_keep_within_its_time(drill, name):
    planned = gpu_plan.PLANS[name](drill)
    assert gpu_plan.seconds(planned) <= gpu_plan.TOTALS[name]
    assert len({stage.name for stage in planned}) == len(planned)


def test_every_command_of_a_plan_knows_its_options(drill):
    """Each script is asked for one option more, which nobody knows: it must not complain of any other."""
    commands = {}
    for stage in [stage for name in gpu_plan.PLANS for stage in gpu_plan.PLANS[name](drill)]:
        words = list(stage.command[list(stage.command).index(sys.executable) + 1 :])
        if Path(words[0]).stem not in ("gpu_install", "gpu_machine"):
            commands[words[0], *sorted(word for word in words if word.startswith("--"))] = words
    assert len(commands) >= 8

    def complaints(words):
        more = ["--collect-only"] if "pytest" in words else []
        done = subprocess.run([sys.executable, *words, *more, "--no-such-option"], capture_output=True, text=True)
        return [line.partition("arguments: ")[2] for line in done.stderr.splitlines() if "unrecognized" in line]

    with ThreadPoolExecutor(2) as pool:
        for words, unknown in zip(commands.values(), pool.map(complaints, commands.values()), strict=True):
            assert unknown == ["--no-such-option"], words


@pytest.mark.parametrize("name", gpu_plan.PLANS)
def test_a_rehearsal_has_every_stage_and_two_that_go_wrong(drill, name):
    real, rehearsed = (gpu_plan.plan(name, replace(drill, rehearsed=flag)) for flag in (False, True))
    assert real == gpu_plan.PLANS[name](drill)
    planted = [stage for stage in rehearsed if stage in gpu_plan.PLANTED]
    assert planted == list(gpu_plan.PLANTED)
    without_tools = {stage.name for stage in real if stage.command[0] != "compute-sanitizer"}
    assert {stage.name for stage in rehearsed if stage not in planted} >= without_tools


TIMED = ("own rows", "training rows", "rivals", "profile", "stacked trials", "truth", "training")


def test_what_is_timed_runs_alone_and_what_a_package_lacks_for_is_named(drill):
    planned = {stage.name: stage for name in gpu_plan.PLANS for stage in gpu_plan.PLANS[name](drill)}
    assert all(not planned[name].group for name in TIMED)
    assert {name for name, stage in planned.items() if "pydantic" in stage.needs} == {
        *("stack tests", "stacked trials", "data", "training", "report"),
    }


def test_all_of_a_command_keeps_within_eight_files(drill, tmp_path):
    """Every file that a stage is told to write, with those of the runner, in all three commands together."""
    words = {word for name in gpu_plan.PLANS for stage in gpu_plan.PLANS[name](drill) for word in stage.command}
    named = {Path(word) for word in words if word.startswith(str(tmp_path)) and Path(word).suffix}
    left = {drill.folder / name for names in gpu_plan.FILES.values() for name in names}
    assert named <= left | {drill.rows}
    assert len(named | left) == 8
    assert gpu.missing(drill, "measure") == [*gpu_plan.FILES["measure"], "measured rows"]
    for path in named | left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert gpu.within_limits(tmp_path) == []
    (tmp_path / "ninth").write_bytes(b"x" * (gpu.MOST_BYTES + 1))
    assert len(gpu.within_limits(tmp_path)) == 2
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    assert any("too deep" in text for text in gpu.within_limits(tmp_path))


def test_what_a_stage_was_writing_is_no_result(drill, tmp_path):
    drill.folder.mkdir()
    for name in ("a-gpu.part", "a-gpu.csv", "a-gpu/profile.csv", "a-gpu/report.html.part"):
        (tmp_path / name).touch()
    gpu.tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a-gpu.csv", "profile.csv"]


def test_a_command_begins_as_long_as_no_other_has_begun_well(drill, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_plan, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "_rows_of", lambda device: "a-gpu.csv")
    options = argparse.Namespace(results=tmp_path, carry=drill.carry, rehearse=False, short=False, emulator=None)

    def begins():
        names = [stage.name for stage in gpu_plan.plan("measure", gpu.drill_of(options))]
        return names[:3] == list(gpu_plan.BEGINNING)

    def ends(*statuses, drill=drill):
        outcomes = [Outcome(Stage(n, [], 1), s, 1.0, "") for n, s in zip(gpu_plan.BEGINNING, statuses, strict=True)]
        drill.scratch.mkdir(parents=True, exist_ok=True)
        gpu.remember(drill, outcomes)

    assert begins()
    ends("ok", "ok", "failed")
    ends("ok", "ok", "ok", drill=replace(drill, rehearsed=True))
    assert begins()
    ends("ok", "ok", "ok")
    assert not begins()
    gpu.remember(replace(drill, begun=True), [])
    assert not begins()
    options.rehearse = True
    assert begins() or gpu_plan.PLANTED[0] in gpu_plan.plan("measure", gpu.drill_of(options))
    options.rehearse = False
    monkeypatch.setattr(gpu, "_rows_of", lambda device: "another-gpu.csv")
    assert begins()


HANGS = """
import pytest, time

@pytest.mark.parametrize("i", range(8))
def test_sleeps(i):
    time.sleep(0.1)
    assert i != 3

def test_hangs():
    time.sleep(60)

def test_after():
    pass
"""


@pytest.mark.parametrize("workers", [True, False])
def test_tests_that_take_too_long_are_told_by_name(drill, tmp_path, monkeypatch, workers):
    """With workers a test that hangs is the end of its process, and of no other test."""
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there(name) if workers or name != "xdist" else None)
    path = tmp_path / "test_slow.py"
    path.write_text(HANGS)
    command = drill.pytest(path, "-c", os.devnull, "-rf", limit=100, workers=1, each=3)
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert time.monotonic() - started < 40
    assert done.returncode == 1
    assert all(name in done.stdout for name in ("test_hangs", "test_sleeps[3]"))
    assert "2 failed, 8 passed" in done.stdout
    # The whole is over before the stage is.
    command[command.index("--session-timeout") + 1] = "0.2"
    done = subprocess.run(
        [*command, "--deselect", "test_slow.py::test_hangs"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode != 0
    assert "session-timeout: 0.2 sec exceeded" in done.stdout
    assert "9 passed" not in done.stdout


def test_no_test_of_a_stage_begins_when_its_time_is_nearly_over(drill):
    for stage in gpu_plan.check(drill):
        if stage.group == "tests":
            words = list(stage.command)
            assert float(words[words.index("--session-timeout") + 1]) == stage.limit - 15
            assert words[words.index("--timeout") + 1] == "20"
            assert words[words.index("--timeout-method") + 1] == "thread"
            assert "-n" in words


def test_memory_checkers_look_at_true_ranks_and_at_no_backward_pass(monkeypatch):
    monkeypatch.setenv("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")  # which is set by the import
    import gpu_target

    monkeypatch.setattr(torch.Tensor, "backward", None)
    assert gpu_target.step(torch.device("cpu"))


def test_as_many_epochs_as_there_is_time_for():
    within = gpu_reproduce.epochs_within
    assert within(120, 2.0, 0.0) == 47  # 97.2 s, less a last evaluation
    assert within(120, 2.0, 0.5) == 38
    assert within(10, 2.0, 0.5) == 1
    assert within(1e6, 2.0, 0.5) == gpu_reproduce.MOST_EPOCHS


def test_without_a_device_the_drill_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, gpu.__file__, "check"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no cuda device is here" in done.stderr
    assert "--rehearse" in done.stderr


def test_kernels_are_found_without_being_imported():
    found = gpu_names.kernels()
    assert {"gram_kernel", "factor_kernel", "sgd_sketch_kernel", "poke_kernel"} <= set(found)
    assert len(found) == len(set(found))


def test_a_tree_that_pip_cannot_install_is_linked(drill, tmp_path, monkeypatch):
    """With nothing but the links on the path: the package, its kernels, its version, and tests of them.

    Tests run in the tree itself, whose folder `fastrank` is the package without its kernels.
    """
    monkeypatch.setattr(gpu_install, "LINKS", tmp_path / "links")
    gpu_install.link()
    script = (
        "import fastrank, fastrank.experiments.layout, importlib.metadata as m\n"
        "print(fastrank.__file__, m.version('fastrank'), fastrank.__version__)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "links")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, env=environment, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    where, listed, own = done.stdout.split()
    assert Path(where) == tmp_path / "links" / "fastrank" / "__init__.py"
    assert listed == own
    program, *words = drill.pytest("tests/kernels/test_gram.py", "--collect-only", limit=60, workers=1)
    for name in ("-n", "--timeout", "--session-timeout", "--timeout-method"):
        if name in words:
            del words[(place := words.index(name)) : place + 2]
    # Without `site` nothing is editable: of this environment's packages only the folders are seen.
    environment["PYTHONPATH"] += os.pathsep + sysconfig.get_path("purelib")
    done = subprocess.run([program, "-S", *words], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_gram.py: " in done.stdout


def test_every_wheel_that_is_carried_has_a_pinned_version():
    pinned = {line.partition("==")[0].replace("_", "-").lower() for line in gpu_carry.pins()}
    assert pinned == {name.replace("_", "-").lower() for name in gpu_carry.WHEELS}


def test_the_commit_is_noted_when_all_else_is_carried(tmp_path, monkeypatch):
    """A folder that has it is complete."""
    folder = tmp_path / "carry"

    def download(to, python):
        (to / "a.whl").write_bytes(b"wheel")

    def size_of_tree():
        assert not (folder / "commit").exists()
        return 1

    monkeypatch.setattr(gpu_carry, "download", download)
    monkeypatch.setattr(gpu_carry, "size_of_tree", size_of_tree)
    monkeypatch.setattr(sys, "argv", ["gpu_carry.py", "--folder", str(folder)])
    assert not gpu_carry.main()
    assert sorted(path.name for path in folder.iterdir()) == ["a.whl", "commit"]
    assert "typing_extensions" in gpu_carry.WHEELS


def test_what_comes_back_replaces_rows_and_adds_to_logs(tmp_path):
    sent, kept = tmp_path / "sent", tmp_path / "kept"
    row = {"operation": "rank", "workload": "w", "provider": "p", "dtype": "float32", "status": "ok", "wall_ms": 2.0}
    results.save(kept / "a-gpu.csv", [row, row | {"provider": "other"}])
    results.save(sent / "a-gpu.csv", [row | {"wall_ms": 1.0}])
    for folder, word in ((kept, "before"), (sent, "after")):
        (folder / "a-gpu").mkdir()
        (folder / "a-gpu" / "stages.csv").write_text(f"head\n{word}\n")
        (folder / "a-gpu" / "profile.csv").write_text(f"head\n{word}\n")
    assert gpu_adopt.adopt(sent, kept) == [kept / "a-gpu.csv"]
    assert {r["provider"]: r["wall_ms"] for r in results.load(kept / "a-gpu.csv")} == {"p": "1", "other": "2"}
    assert (kept / "a-gpu" / "stages.csv").read_text() == "head\nbefore\nafter\n"
    assert (kept / "a-gpu" / "profile.csv").read_text() == "head\nafter\n"


def test_a_profile_is_of_one_step_and_the_costliest_kernel_comes_first():
    found = [("cheap", 1.0), ("dear", 30.0), ("cheap", 3.0), ("dear", 6.0)]
    rows = gpu_profile.table("decided", 2, iter(found))
    assert [(row["kernel"], row["calls"], row["us"], row["share"]) for row in rows] == [
        ("dear", 1.0, 18.0, 0.9),
        ("cheap", 1.0, 2.0, 0.1),
    ]


def test_the_last_lines_are_those_of_the_stages(drill):
    row = {"operation": "rank", "workload": "w", "provider": "p", "dtype": "float32", "status": "ok", "wall_ms": 2.5}
    results.save(drill.rows, [row, row | {"operation": "roof"}])
    drill.folder.mkdir()
    with (drill.folder / "profile.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, gpu_profile.COLUMNS)
        writer.writeheader()
        writer.writerow({"case": "decided", "kernel": "gram_kernel", "calls": 1.0, "us": 5.0, "share": 1.0})
    outcomes = [Outcome(Stage(name, [], 10), "ok", 1.0, "done") for name in ("own rows", "profile")]
    lines = list(gpu_tables.summary(drill, outcomes))
    assert lines[-2:] == [stages.line(outcome) for outcome in outcomes]
    text = "\n".join(lines)
    assert "2.5" in text
    assert "decided: 5 us a step: gram_kernel 5 (1.0x)" in text
    assert "roof" not in text
