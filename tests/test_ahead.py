"""Kernels compiled ahead: in the background, by a process of their own, and the very ones that are then launched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import fastrank
from fastrank import ahead, backend, columns, compilation
from fastrank.compilation import Compilation

pytest.importorskip("triton")
from fastrank.kernels import compile as compiling
from fastrank.kernels import launches, pointers, sgd, sketches
from triton.backends.compiler import GPUTarget

ROOT = Path(__file__).parents[1]
KIT, TRITON = ROOT.parent / "shared" / "gpu", ROOT / "build" / "triton-3.6.0"
CPU, TARGET = torch.device("cpu"), GPUTarget("cuda", 90, 32)
KIND = sgd.Kind(torch.float32, 0.0, 0.0, False, False)


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    """As if this process launched on a GPU, whatever Triton was told."""
    monkeypatch.setattr(compilation, "_is_compiled", lambda: True)
    monkeypatch.setattr(backend, "kernels_serve", lambda device: True)
    monkeypatch.setattr(compiling, "target_of", lambda device: TARGET)


@pytest.fixture
def made():
    """A `Compilation` that ends with the test."""
    one = Compilation(CPU)
    yield one
    one._stop()


def variants(count):
    return sketches.variants_of(torch.float32, 16, CPU)[:count]


def test_nobody_waits_but_who_asks_to(made, monkeypatch):
    go, seen = threading.Event(), []

    def warm(variant, device):
        assert go.wait(20)
        seen.append((variant.key, device))

    monkeypatch.setattr(compiling, "warm", warm)
    three = variants(3)
    started = time.monotonic()
    made.request(three)
    made.request(three)  # once is enough
    assert time.monotonic() - started < 5
    assert not made.ready(three[:1])
    go.set()
    made.wait(three)
    assert made.ready(three)
    assert sorted(map(str, seen)) == sorted(str((variant.key, CPU)) for variant in three)


def test_what_cannot_be_compiled_keeps_nobody_waiting(made, monkeypatch):
    """The launch will raise what there is to raise."""

    def warm(variant, device):
        raise RuntimeError("no registers left")

    monkeypatch.setattr(compiling, "warm", warm)
    made.wait(variants(2))
    assert made.ready(variants(2))


def test_what_is_needed_later_is_compiled_by_a_process_of_its_own(made, monkeypatch, tmp_path):
    """For real, into a cache on disk that this process then finds it in."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    warmed = []
    monkeypatch.setattr(compiling, "warm", lambda variant, device: warmed.append(compiling.is_stored(variant, TARGET)))
    wanted = [pointers.POKE, sgd.sgd_variant(KIND)]
    assert not any(compiling.is_stored(variant, TARGET) for variant in wanted)
    assert not made.ready(wanted)  # which asks for them
    made.wait(wanted)
    assert warmed == [True, True]
    assert (tmp_path / "fastrank.lock").exists()


def test_where_no_process_can_be_started_this_one_compiles(made, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    warmed = []
    monkeypatch.setattr(compiling, "warm", lambda variant, device: warmed.append(variant.key))
    made.request((), [pointers.POKE])
    made.wait([pointers.POKE])
    assert warmed == [pointers.POKE.key]


def test_the_process_does_not_outlive_whoever_asked_for_it(tmp_path):
    work = compiling.packed(variants(8), TARGET, threads=1)
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "fastrank.kernels.compile"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        process.stdin.write(work)
        process.stdin.close()  # as the system does for one that was killed
        assert process.wait(60) == 1


def test_a_program_that_ends_early_does_not_wait_for_the_rest(tmp_path):
    script = (
        "import torch\nfrom fastrank import compilation\nfrom fastrank.kernels import compile as c, sketches\n"
        "import time\nc.warm = lambda v, d: time.sleep(0.5)\ncompilation._is_compiled = lambda: True\n"
        "wanted = [v for k in (16, 32, 64, 128) for v in sketches.variants_of(torch.float32, k, torch.device('cpu'))]\n"
        "compilation.compilation_of(torch.device('cpu')).request(wanted)\nprint(time.time(), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.time() - float(done.stdout) < 8  # all of it would take 8 s more


def keys(listed):
    return {variant.key for variant in listed}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_all_that_a_tracker_may_launch_is_asked_for(momentum):
    """Every number of columns of every matrix, the optimizer's own kernels, and what counts before any sketch."""
    model = nn.Sequential(nn.Linear(64, 40), nn.Linear(300, 200), nn.Linear(700, 600)).bfloat16()
    optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=momentum)
    matrices = [layer.weight.detach() for layer in model]
    needs = ahead.needs_of(matrices, optimizer, CPU)
    kind = KIND._replace(dtype=torch.bfloat16, momentum=momentum)
    assert keys([sgd.sgd_variant(kind), pointers.POKE]) <= keys(needs.urgent)
    assert keys(launches.variants_of([64, 224, 608], [torch.bfloat16], CPU)) <= keys(needs.urgent)
    for k in columns.KS:
        assert keys(sketches.variants_of(torch.bfloat16, k, CPU)) <= keys(needs.later)
    first = len(sketches.variants_of(torch.bfloat16, 64, CPU))
    assert keys(needs.later[:first]) == keys(sketches.variants_of(torch.bfloat16, 64, CPU)), "first what is first"
    unfused = ahead.needs_of(matrices, torch.optim.SGD(model.parameters(), lr=0.1), CPU)
    assert not [v for v in [*unfused.urgent, *unfused.later] if "sgd" in v.kernel.__name__]


def test_fp64_matrices_are_counted_and_never_sketched():
    needs = ahead.needs_of([torch.eye(5, dtype=torch.float64)], None, CPU)
    assert needs.later == []
    assert any(v.kernel.__name__ == "largest_kernel" for v in needs.urgent)


@pytest.mark.parametrize("r", [1, 16, 17, 64, 65, 100, 128, 255, 256, 4096])
def test_all_columns_are_those_that_a_matrix_may_be_given(r):
    given = {columns.columns_of(rank, r, now) for rank in range(r + 1) for now in (0, *columns.KS)}
    assert set(columns.all_columns(r)) >= given
    assert columns.all_columns(r)[0] == columns.columns_of(0, r)


def test_prepare_waits_and_names_what_it_cannot_take(monkeypatch):
    monkeypatch.setattr(compiling, "warm", lambda variant, device: time.sleep(0.01))
    monkeypatch.setattr(compiling, "is_stored", lambda variant, target: True)
    model = nn.Linear(9, 8)
    fastrank.prepare(model)
    one = compilation.compilation_of(CPU)
    needs = ahead.needs_of([model.weight.detach()], None, CPU)
    assert all(one._done[variant.key].done() for variant in [*needs.urgent, *needs.later])
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
        fastrank.prepare("model")
    with pytest.raises(TypeError, match="optimizer: expected"):
        fastrank.prepare(model, 0.1)
    with pytest.raises(ValueError, match="nothing to track"):
        fastrank.prepare(nn.BatchNorm1d(3))


def test_on_a_cpu_prepare_has_nothing_to_do(monkeypatch):
    monkeypatch.undo()
    fastrank.prepare(nn.Linear(4, 3))


@pytest.mark.skipif(not (KIT.is_dir() and TRITON.is_dir()), reason="needs a driver that launches nothing")
def test_what_is_launched_is_what_was_compiled(tmp_path):
    """Triton's own launch path: no step compiles anything by itself, from the first to where a sketch has grown."""
    environment = os.environ | {"PYTHONPATH": f"{TRITON}{os.pathsep}{KIT}", "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(Path(__file__).with_name("launching_nothing.py"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert [compiled for _, compiled in told["steps"]] == [0] * len(told["steps"])
    assert told["columns"] == [64, 32]
    assert told["fused"] == [1, 1]
