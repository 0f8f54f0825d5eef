"""Parts of the drill for a CUDA machine: how it begins, what it brings along, tests with limits, small targets."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import gpu
import gpu_carry
import gpu_compile
import gpu_install
import gpu_names
import gpu_plan
import gpu_reproduce
import pytest
import torch
from stages import Outcome, Stage

ROOT = Path(__file__).parents[2]


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
    seen = 0
    for stage in gpu_plan.check(drill):
        words = list(stage.command)
        if stage.group == "tests" and "pytest" in words:
            seen += 1
            assert float(words[words.index("--session-timeout") + 1]) == stage.limit - 15
            assert words[words.index("--timeout") + 1] == "20"
            assert words[words.index("--timeout-method") + 1] == "thread"
            assert "-n" in words
    assert seen > 1


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


def test_kernels_are_found_without_being_imported():
    found = gpu_names.kernels()
    assert {"gram_kernel", "factor_kernel", "sgd_sketch_kernel", "poke_kernel"} <= set(found)
    assert len(found) == len(set(found))


def test_kernels_in_cuda_are_found_by_the_launches_that_they_name(monkeypatch):
    monkeypatch.setattr(gpu_names, "KERNELS", Path(__file__).parent / "sources" / "cuda")
    assert gpu_names.kernels() == ["scale_kernel", "sum_kernel"]
    launched = {arch: gpu_compile._variants("macros.cu", arch) for arch in ("sm_90", "sm_120")}
    assert [launch.macros for launch in launched["sm_90"]] == [(), ("WIDTH=32", "UNUSED=1")]
    assert [launch.macros for launch in launched["sm_120"]] == [()]


def test_a_tree_that_pip_cannot_install_is_linked(drill, tmp_path, monkeypatch):
    """With nothing but the links on the path: the package, its kernels, its version, and tests of them.

    The tree itself, where tests run, is not on the path: its folder `kernels` would be taken for another package.
    """
    monkeypatch.setattr(gpu_install, "LINKS", tmp_path / "links")
    gpu_install.link()
    script = (
        "import fastrank, fastrank.experiments.records.layout, importlib.metadata as m\n"
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
    program, *words = drill.pytest("tests/kernels/count/test_gram.py", "--collect-only", limit=60, workers=1)
    # Without `site` nothing is editable: of this environment's packages only the folders are seen.
    environment["PYTHONPATH"] += os.pathsep + sysconfig.get_path("purelib")
    done = subprocess.run([program, "-S", *words], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests collected" in done.stdout


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
