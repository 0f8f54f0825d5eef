"""One decision about what serves a device, and a report of it that says the same."""

from __future__ import annotations

import sys
import sysconfig
import warnings
from types import SimpleNamespace

import pytest
import torch

from fastrank import Tolerance, backend

CUDA = torch.device("cuda")


@pytest.fixture
def _afresh():
    """Nothing that was found out about this machine is remembered, before or after."""
    for remembered in (backend.why_numba_fails, backend.why_triton_fails, backend._warn_once):
        remembered.cache_clear()
    yield
    for remembered in (backend.why_numba_fails, backend.why_triton_fails, backend._warn_once):
        remembered.cache_clear()


def test_kernels_serve_cuda_where_triton_is(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(backend, "installed", lambda package: True)
    monkeypatch.setattr(backend, "why_triton_fails", lambda: "")
    assert backend.kernels_serve(cuda)
    assert not backend.kernels_serve(torch.device("cpu"))
    monkeypatch.setattr(backend, "installed", lambda package: False)
    assert not backend.kernels_serve(cuda)


@pytest.mark.parametrize("lacking", ["", "Numba is not installed: pip install 'fastrank[cpu]'"])
def test_report_says_what_counts_on_a_cpu_and_why(monkeypatch, lacking):
    monkeypatch.setattr(backend, "why_numba_fails", lambda: lacking)
    assert backend.compiled_serve(torch.device("cpu")) == (not lacking)
    assert not backend.compiled_serve(CUDA)
    report = backend.report()
    text = "\n".join(map(str, report))
    assert {choice.device for choice in report} >= {"cpu"}
    assert all(choice.reason for choice in report)
    assert ("kernels compiled by Numba" in text) == (not lacking)
    assert lacking in text
    assert ("LAPACK and with its residual" in text) == bool(lacking)


@pytest.mark.usefixtures("_afresh")
def test_what_keeps_numba_from_compiling_is_said(monkeypatch):
    monkeypatch.setattr(backend, "installed", lambda package: package != "numba")
    assert "fastrank[cpu]" in backend.why_numba_fails()
    monkeypatch.setattr(backend, "installed", lambda package: True)
    for module, expected in (
        (None, "cannot be imported"),
        (SimpleNamespace(config=SimpleNamespace(DISABLE_JIT=1)), "JIT"),
    ):
        backend.why_numba_fails.cache_clear()
        monkeypatch.setitem(sys.modules, "numba", module)
        assert expected in backend.why_numba_fails()


def test_installed_looks_without_importing():
    assert backend.installed("torch")
    assert not backend.installed("no_such_package_anywhere")


@pytest.mark.usefixtures("_afresh")
@pytest.mark.parametrize("missing", ["compiler", "named compiler", "headers", "nothing"])
def test_what_triton_lacks_is_warned_of_once_and_named(monkeypatch, tmp_path, missing):
    """Triton is installed and cannot build its launchers: PyTorch serves, where a first step used to raise."""
    pytest.importorskip("triton")
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "gcc").touch(mode=0o755)
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("PATH", str(tmp_path / "empty" if missing == "compiler" else tmp_path))
    if missing == "named compiler":
        monkeypatch.setenv("CC", "no-such-compiler -O1")
    headers = tmp_path / "empty" if missing == "headers" else tmp_path
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(headers)})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        served = [backend.kernels_serve(CUDA) for _ in range(3)]
    said = {"compiler": "neither gcc nor clang", "named compiler": "no-such-compiler", "headers": "no Python.h"}
    assert served == [missing == "nothing"] * 3
    assert [said[missing] in str(warning.message) for warning in caught] == [True] * (missing != "nothing")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    if missing != "nothing":
        told = [choice for choice in backend.report() if choice.device == "a GPU"]
        assert {choice.operation for choice in told} >= {"rank", "tracking", "svd_lowrank", "SGD"}
        assert all(said[missing] in choice.reason for choice in told)


@pytest.fixture
def a_gpu(monkeypatch):
    """A function that makes this a machine with a GPU of a compute capability, and returns what is reported of it."""
    pytest.importorskip("triton")
    from fastrank.kernels import device
    from fastrank.kernels.cuda import build

    monkeypatch.setattr(build, "why_cupy_fails", lambda device: "")
    monkeypatch.delenv(backend.PRODUCTS, raising=False)
    monkeypatch.setattr(backend, "why_triton_fails", lambda: "")
    for name, value in {"is_available": True, "get_device_name": "a GPU", "current_device": 3}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)

    def of(capability):
        monkeypatch.setattr(device, "capability", lambda device: capability)
        return {choice.operation: choice for choice in backend.report() if choice.device == "a GPU"}

    return of


@pytest.mark.parametrize("reason", ["", "CuPy is not installed: pip install it"])
def test_the_report_tells_whether_cuda_or_triton_factors(monkeypatch, a_gpu, reason):
    from fastrank.kernels.cuda import build

    monkeypatch.setattr(build, "why_cupy_fails", lambda device: reason if device == torch.device("cuda", 3) else "?")
    told = a_gpu((9, 0))
    assert told["rank"].implementation == "Triton kernels"
    assert told["LDL^T inertia"].implementation.startswith("Triton" if reason else "CUDA C++")
    assert told["LDL^T inertia"].reason == reason or not reason
    assert build.serves(torch.device("cuda", 3)) == (not reason)


@pytest.mark.parametrize(
    ("capability", "integers"),
    [((8, 0), False), ((8, 6), True), ((8, 9), True), ((9, 0), False), ((10, 0), True), ((10, 3), True),
     ((12, 0), True), ((7, 5), False)],
)  # fmt: skip
def test_grams_are_made_by_integers_where_fp64_is_slow(a_gpu, capability, integers):
    told = a_gpu(capability)["Gram matrices"]
    assert told.implementation.startswith("INT8" if integers else "FP64")
    assert ("7.5" in told.reason) == (capability == (7, 5))
    gpu = torch.device("cuda", 3)
    coarse, fine = Tolerance(5e-3), Tolerance(1e-4)
    assert backend.integer_products(gpu, [coarse, Tolerance(0.1, "spectral")]) == 10 * integers
    assert backend.integer_products(gpu, [coarse, fine]) == 13 * integers
    assert backend.integer_products(gpu, [Tolerance()]) == 13 * integers
    assert backend.integer_products(gpu, [Tolerance(0.01, "spectral")]) == 13 * integers
    for tolerance in (Tolerance(9e-5), Tolerance(1e-3, "spectral"), Tolerance(100.0, "absolute")):
        assert not backend.integer_products(gpu, [coarse, tolerance])


def test_the_environment_says_how_products_are_made(monkeypatch, a_gpu):
    for told, capability in (("integers", (9, 0)), ("fp64", (8, 9))):
        monkeypatch.setenv(backend.PRODUCTS, told)
        row = a_gpu(capability)["Gram matrices"]
        assert row.implementation.startswith("INT8") == (told == "integers")
        assert told in row.reason
        assert backend.integer_products(CUDA, [Tolerance(1e-9, "absolute")]) == 13 * (told == "integers")
        assert backend.integer_products(CUDA) == 10 * (told == "integers")
    monkeypatch.setenv(backend.PRODUCTS, "fp32")
    with pytest.raises(ValueError, match="FASTRANK_PRODUCTS: 'fp64' or 'integers', or nothing, not 'fp32'"):
        backend.integer_products(CUDA)


@pytest.mark.parametrize(
    ("capability", "few"), [((8, 0), False), ((8, 9), True), ((9, 0), False), ((10, 0), False), ((10, 3), True),
                            ((12, 0), True), ((7, 5), False)],
)  # fmt: skip
def test_sketches_are_made_by_integers_where_fp64_units_are_few_or_as_told(monkeypatch, a_gpu, capability, few):
    assert a_gpu(capability)["sketches"].implementation.startswith("INT8" if few else "FP64")
    assert backend.sketches_by_integers(CUDA, [Tolerance(), Tolerance(0.01, "spectral")]) == few
    for tolerance in (Tolerance(1e-4), Tolerance(1e-3, "spectral"), Tolerance(100.0, "absolute")):
        assert not backend.sketches_by_integers(CUDA, [tolerance])
    for told in ("fp64", "integers"):
        monkeypatch.setenv(backend.PRODUCTS, told)
        assert backend.sketches_by_integers(CUDA, [Tolerance(1e-9)]) == (told == "integers")
    monkeypatch.setenv(backend.PRODUCTS, "int8")
    with pytest.raises(ValueError, match="'int8'"):
        backend.sketches_by_integers(CUDA)
