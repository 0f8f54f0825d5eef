"""Kernels in CUDA C++: their parameters, their launches, and tapes that repeat these. A CPU has a driver of its own."""

from __future__ import annotations

import ctypes
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from fastrank.kernels.cuda import CudaVariant, build
from fastrank.kernels.launch import Tape, launch

AFFINE = CudaVariant(
    file=str(Path(__file__).with_name("affine.cu")),
    name="affine_kernel",
    threads=64,
    shared=65536,
    macros={"UNROLL": 2},
)
SIGNATURE = {
    "y": "*fp64", "x": "*fp32", "n": "*i64", "none": "*i32",
    "add": "i32", "slope": "fp64", "end": "i64", "half": "fp32",
}  # fmt: skip
WHERE = (ctypes.c_void_p,) * 4 + (ctypes.c_int32, ctypes.c_double, ctypes.c_int64, ctypes.c_float)


class Driver:
    """CUDA's driver as CuPy shows it, for the one kernel of `affine.cu`: the CPU runs it."""

    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
    CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT = 9

    def __init__(self):
        self.context, self.calls, self.launches = 0, [], []

    def ctxGetCurrent(self):
        return self.context

    def setDevice(self, device):
        self.calls.append(("setDevice", device))
        self.context = 1

    def moduleLoadData(self, code):
        assert self.context
        self.calls.append(("moduleLoadData", code))
        return 11

    def moduleGetFunction(self, module, name):
        self.calls.append(("moduleGetFunction", module, name))
        return 12

    def funcSetAttribute(self, function, attribute, value):
        self.calls.append(("funcSetAttribute", function, attribute, value))

    def launchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        assert self.context
        assert (function, gy, gz, bx, by, bz, shared, extra) == (12, 1, 1, 64, 1, 1, 65536, 0)
        self.launches.append(stream)
        places = (ctypes.c_void_p * len(WHERE)).from_address(parameters)
        y, x, n, none, add, slope, end, half = (
            kind.from_address(place).value for kind, place in zip(WHERE, places, strict=True)
        )
        assert none is None
        count = 64 * gx
        out = (ctypes.c_double * count).from_address(y)
        for i in range(count):
            first, second = ctypes.c_float.from_address(x + 4 * i), ctypes.c_int64.from_address(n + 8 * i)
            out[i] = 2 * slope * first.value * half + second.value + add if i < end else 0.0


@pytest.fixture
def driver(device, monkeypatch):
    """On a CPU, its driver; None on a CUDA device, which has one."""
    monkeypatch.setattr(build, "_loaded", {})
    if device.type == "cuda":
        if reason := build.why_cupy_fails(device):
            pytest.skip(reason)
        return None
    made = Driver()
    cupy, cuda = ModuleType("cupy"), ModuleType("cupy.cuda")
    cupy.cuda, cuda.driver, cuda.runtime = cuda, made, SimpleNamespace(setDevice=made.setDevice)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setattr(build, "cubin", lambda variant, capability: b"code")
    return made


@pytest.fixture
def given(device):
    """Arguments whose values need all bits of their types, and what the kernel makes of the first ones."""
    x, n = torch.arange(128, dtype=torch.float32, device=device), torch.arange(128, device=device) * 3_000_000_000
    y = torch.full((128,), 7.0, dtype=torch.float64, device=device)
    arguments = {"y": y, "x": x, "n": n, "none": None, "add": -3, "slope": 1 + 2**-40, "end": 100, "half": 0.5}
    return dict(reversed(arguments.items()))  # whoever calls names them in any order


def expected(given):
    values = given["slope"] * given["x"].double() + given["n"] + given["add"]
    return torch.where(torch.arange(128, device=values.device) < given["end"], values, 0.0)


def test_the_signature_is_what_the_source_says():
    assert AFFINE.signature == SIGNATURE
    assert list(AFFINE.signature) == list(SIGNATURE)
    assert f"// launch: affine_kernel {AFFINE}\n" in AFFINE.source


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [("const double** x", "double"), ("size_t n", "size_t n"), ("char* x", "char"), (None, "no kernel affine_kernel")],
)
def test_a_parameter_whose_size_nobody_knows_is_refused(parameters, complaint, tmp_path):
    file = tmp_path / "wrong.cu"
    file.write_text(
        f'extern "C" __global__ void {"affine" if parameters else "other"}_kernel({parameters}, int n) {{}}'
    )
    with pytest.raises(ValueError, match=complaint):
        _ = CudaVariant(file=str(file), name="affine_kernel", threads=1).signature


def test_a_launch_and_a_tape_that_repeats_it(driver, given, device):
    tape, calls = Tape(), []

    def body():
        calls.append(None)
        launch(AFFINE, (2,), given)

    for _ in range(3):
        given["y"].fill_(7.0)
        tape(body)
        assert torch.equal(given["y"], expected(given))
        given["x"].add_(1.0)
    assert (len(calls), len(tape)) == (1, 1)
    if driver:
        loading = [name for name, *_ in driver.calls]
        assert loading == ["setDevice", "moduleLoadData", "moduleGetFunction", *["funcSetAttribute"] * 2]
        assert driver.calls[1:] == [
            ("moduleLoadData", b"code"), ("moduleGetFunction", 11, "affine_kernel"),
            ("funcSetAttribute", 12, 8, 65536), ("funcSetAttribute", 12, 9, 100),
        ]  # fmt: skip


def test_a_thread_without_a_context_gets_one(driver, given):
    if driver is None:
        pytest.skip("of the driver that stands for CUDA's")
    launch(AFFINE, (2,), given)
    driver.context = 0
    launch(AFFINE, (2,), given)
    assert driver.context
    assert len([name for name, *_ in driver.calls if name == "moduleLoadData"]) == 1


def test_little_shared_memory_is_not_asked_for(driver, given):
    small = CudaVariant(file=AFFINE.file, name=AFFINE.name, threads=64, shared=48 * 1024, macros=AFFINE.macros)
    build.load(small, given["y"].device)
    assert driver is None or "funcSetAttribute" not in [name for name, *_ in driver.calls]
    assert small.key != AFFINE.key


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"x": torch.zeros(128, dtype=torch.float64)}, TypeError),
        ({"n": torch.zeros(128, dtype=torch.int32)}, TypeError),
        ({"add": 2**31}, struct.error),
        ({"add": 0.5}, struct.error),
        ({"more": 1}, TypeError),
    ],
)
def test_arguments_that_the_kernel_would_misread_are_refused(driver, given, changed, error):
    with pytest.raises(error):
        launch(AFFINE, (2,), given | changed)
    assert driver is None or not driver.launches
    del given["half"]
    with pytest.raises(TypeError, match="half"):
        launch(AFFINE, (2,), given)


def test_another_implementation_gets_plain_numbers(monkeypatch, given, device):
    """What tests do that run a kernel elsewhere: they replace `load`."""
    seen = []

    class Elsewhere:
        def launch(self, grid, words, stream):
            seen.append((grid, list(words), stream))

    monkeypatch.setattr(build, "load", lambda variant, device: Elsewhere())
    tape = Tape()
    for _ in range(2):
        tape(lambda: launch(AFFINE, (2, 3), given))
    addresses = [given[name].data_ptr() for name in ("y", "x", "n")]
    assert [grid for grid, _, _ in seen] == [(2, 3, 1)] * 2
    assert seen[0][1] == seen[1][1] == [*addresses, 0, -3, 1 + 2**-40, 100, 0.5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_captures_the_launch(driver, given):
    if driver is not None:
        pytest.skip("needs a CUDA device")
    build.load(AFFINE, given["y"].device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch(AFFINE, (2,), given)
    given["y"].fill_(7.0)
    given["x"].add_(1.0)
    graph.replay()
    assert torch.equal(given["y"], expected(given))
