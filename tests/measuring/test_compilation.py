"""Compilation in the background: who waits for whom, a process of its own, and the end of a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastrank.measuring.compilation import Compilation

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget

from fastrank.kernels import compile as compiling
from fastrank.kernels import pointers
from fastrank.kernels.cuda import CudaVariant, build
from fastrank.kernels.sketch import sketches
from fastrank.kernels.step import sgd

ROOT = Path(__file__).parents[2]
KIT, TRITON = ROOT.parent / "shared" / "gpu", ROOT / "build" / "triton-3.6.0"
CPU, TARGET = torch.device("cpu"), GPUTarget("cuda", 90, 32)
KIND = sgd.Kind(torch.float32, 0.0, 0.0, False, False)

AFFINE = CudaVariant(
    file=str(ROOT / "tests" / "kernels" / "cuda" / "affine.cu"),
    name="affine_kernel",
    threads=64,
    macros={"UNROLL": 2},
)

pytestmark = pytest.mark.usefixtures("compiled_for_a_gpu")


@pytest.fixture
def made():
    """A `Compilation` that ends with the test."""
    one = Compilation(CPU)
    yield one
    one._stop()


def variants(count):
    return sketches.variants_of_sketches([(torch.float32, 16)], CPU)[:count]


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
    made.wait(wanted, here=False)
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
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as process:
        process.stdin.write(work)
        process.stdin.close()  # as the system does for one that was killed
        assert process.wait(60) == 1


def test_the_process_tells_what_it_has_stored_and_ends_well(tmp_path):
    """One that cannot be compiled takes nothing from the others."""
    wrong = replace(pointers.POKE, signature={"p_table": "*i64"})
    work = compiling.packed([wrong, pointers.POKE], TARGET, threads=2)
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "fastrank.kernels.compile"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        process.stdin.write(work)
        process.stdin.flush()
        told, complaints = process.stdout.read(), process.stderr.read()
        assert process.wait(60) == 0, complaints
    assert told.split() == [b"0", b"1"]
    assert complaints == b""
    assert list(tmp_path.rglob("poke_kernel.cubin"))


def test_a_kernel_in_cuda_is_compiled_by_the_same_threads(made, monkeypatch):
    asked, other = [], replace(AFFINE, macros={"UNROLL": 3})
    monkeypatch.setattr(build, "is_stored", lambda variant, at: at == (9, 0))  # then no process is begun
    monkeypatch.setattr(build, "cubin", lambda variant, at: asked.append((variant.key, at)))
    made.request([AFFINE], [other])
    made.wait([AFFINE, other], here=False)
    assert asked == [(AFFINE.key, (9, 0)), (other.key, (9, 0))]
    assert made.ready([AFFINE, other])


def test_a_kernel_in_cuda_is_compiled_by_the_process_too(made, monkeypatch, tmp_path):
    """Beside one of Triton, which is stored in any case; a process without NVRTC says as much of what it cannot do."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    warmed = []
    monkeypatch.setattr(compiling, "warm", lambda variant, device: warmed.append(variant.key))
    monkeypatch.setattr(build, "is_stored", lambda variant, at: False)
    made.request((), [AFFINE, pointers.POKE])
    made.wait([AFFINE, pointers.POKE], here=False)
    assert sorted(map(str, warmed)) == sorted([str(AFFINE.key), str(pointers.POKE.key)])
    assert list(tmp_path.rglob("poke_kernel.cubin"))
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception:
        return
    assert list(tmp_path.rglob("affine.cubin"))


def test_the_end_waits_for_no_process(made, monkeypatch, tmp_path):
    """Two requests for later, of which the first has a process: neither keeps the program from ending."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling, "warm", lambda variant, device: None)
    made.request((), sketches.variants_of_sketches([(torch.float32, 128)], CPU))
    made.request((), sketches.variants_of_sketches([(torch.bfloat16, 128)], CPU))
    deadline = time.monotonic() + 30
    while made._process is None and time.monotonic() < deadline:
        time.sleep(0.05)
    started = time.monotonic()
    made._stop()
    assert time.monotonic() - started < 5
    made.wait(variants(2))  # what is asked for at the end of a program keeps nobody waiting


def test_who_waits_compiles_what_nobody_has_begun(made, monkeypatch):
    """The thread for what comes later is busy: what was asked for as that is urgent now."""
    go, seen = threading.Event(), []

    def warm(variant, device):
        if variant.key == pointers.POKE.key:
            assert go.wait(20)
        seen.append((variant.key, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(compiling, "warm", warm)
    monkeypatch.setattr(compiling, "is_stored", lambda variant, target: True)
    wanted = sgd.sgd_variant(KIND)
    made.request((), [pointers.POKE, wanted])
    made.wait([wanted])
    assert seen == [(wanted.key, True)]
    go.set()
    made.wait([pointers.POKE])
    assert len(seen) == 2


def test_a_compiler_that_cannot_be_imported_hangs_nobody(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastrank.kernels.compile", None)
    made.request(variants(1), variants(3))
    made.wait(variants(3))
    assert made.ready(variants(3))


def test_a_program_that_ends_early_does_not_wait_for_the_rest(tmp_path):
    script = (
        "import torch\nfrom fastrank.measuring import compilation\n"
        "from fastrank.kernels import compile as c, pointers\n"
        "from fastrank.kernels.sketch import variants_of_sketches as of\n"
        "import time\nc.warm = lambda v, d: time.sleep(0.5)\ncompilation._is_compiled = lambda: True\n"
        "wanted = [v for k in (16, 32, 64, 128) for v in of([(torch.float32, k)], torch.device('cpu'))]\n"
        "compilation.compilation_of(torch.device('cpu')).request(wanted, [pointers.POKE])\n"
        "time.sleep(0.8)\nprint(time.time(), flush=True)\n"  # all threads are at work by now
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.time() - float(done.stdout) < 8  # all of it would take 8 s more


@pytest.mark.skipif(not (KIT.is_dir() and TRITON.is_dir()), reason="needs a driver that launches nothing")
def test_what_is_launched_is_what_was_compiled(tmp_path):
    """Triton's own launch path: after the first step, which lends a hand, none compiles anything; nothing is twice."""
    environment = os.environ | {"PYTHONPATH": f"{TRITON}{os.pathsep}{KIT}", "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(Path(__file__).with_name("launching_nothing.py"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert [compiled for _, compiled in told["steps"][1:]] == [0] * (len(told["steps"]) - 1)
    assert told["twice"] == []
    assert told["columns"] == [64, 32]
    assert told["fused"] == [1, 1]
