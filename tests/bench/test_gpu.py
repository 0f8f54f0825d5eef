"""The drill for a CUDA machine, as far as it can be seen without one: plans, what is kept, what is brought along."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gpu
import gpu_adopt
import gpu_plan
import gpu_profile
import gpu_tables
import pytest
import results
import stages
import torch
from stages import Outcome, Stage

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", gpu_plan.PLANS)
def test_the_limits_of_a_command_keep_within_its_time(drill, name):
    planned = gpu_plan.PLANS[name](drill)
    assert gpu_plan.seconds(planned) <= gpu_plan.TOTALS[name]
    assert len({stage.name for stage in planned}) == len(planned)


ASKED = """
import gc, json, os, runpy, sys
from pathlib import Path
import fastrank, pandas, pytest, sklearn, torch._dynamo  # which takes long: once, for all that are asked

gc.freeze()
for number, words in enumerate(json.load(sys.stdin)):
    if os.fork() == 0:
        os.dup2(os.open(f"{sys.argv[1]}/{number}", os.O_WRONLY | os.O_CREAT), 2)
        try:
            sys.argv = words if words[0] != "-m" else words[1:]
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                sys.path.insert(0, str(Path(words[0]).parent))
                runpy.run_path(words[0], run_name="__main__")
        finally:
            sys.stderr.flush()
            os._exit(0)  # an end of the interpreter takes as long as the rest
    os.wait()
"""


def test_every_command_of_a_plan_knows_its_options(drill, tmp_path):
    """Each script is asked for one option more, which nobody knows: it must not complain of any other."""
    commands = {}
    for stage in [stage for name in gpu_plan.PLANS for stage in gpu_plan.PLANS[name](drill)]:
        words = list(stage.command[list(stage.command).index(sys.executable) + 1 :])
        words = words[words[0] == "-P" :]  # this process has it for all of them
        if Path(words[0]).stem not in ("gpu_install", "gpu_machine"):
            more = ["--collect-only"] if "pytest" in words else []
            key = (words[0], *sorted(word for word in words if word.startswith("--")))
            commands[key] = [*words, *more, "--no-such-option"]
    assert len(commands) >= 8
    command = [sys.executable, "-P", "-c", ASKED, tmp_path]
    subprocess.run(command, input=json.dumps(list(commands.values())), text=True, capture_output=True, check=True)
    for number, words in enumerate(commands.values()):
        complaints = (tmp_path / str(number)).read_text().splitlines()
        unknown = [line.partition("arguments: ")[2] for line in complaints if "unrecognized" in line]
        assert unknown == ["--no-such-option"], (words, complaints)


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


def test_without_a_device_the_drill_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, gpu.__file__, "check"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no cuda device is here" in done.stderr
    assert "--rehearse" in done.stderr


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
