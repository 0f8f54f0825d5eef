"""NVRTC compiles every CUDA C++ kernel for every architecture, where there is NVRTC; the disk keeps what it makes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from fastrank.kernels.cuda import CudaVariant, build
from fastrank.kernels.device import ARCHITECTURES

LAUNCH = re.compile(r"^// launch: (\w+) (threads=(\d+) shared=(\d+)((?: [A-Z]\w*=\w+)*))(?: on=[\w,]+)?$", re.MULTILINE)
FILES = [Path(__file__).with_name("affine.cu"), *Path(build.__file__).parent.glob("*.cu")]


def why_no_nvrtc():
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:
        return f"no NVRTC: {error}"
    return ""


needs_nvrtc = pytest.mark.skipif(bool(why_no_nvrtc()), reason=why_no_nvrtc())


def launches(file):
    """The variants that the comments of a file name, for those who compile it without asking who launches it."""
    for name, told, threads, shared, macros in LAUNCH.findall(file.read_text()):
        given = dict(pair.split("=") for pair in macros.split())
        variant = CudaVariant(file=str(file), name=name, threads=int(threads), shared=int(shared), macros=given)
        assert str(variant) == told
        yield variant


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_kernel_is_launched_with_parameters_of_known_types(file):
    kernels = set(re.findall(r"\b(\w+)\s*\(", re.sub(r"//[^\n]*", "", "".join(heads(file.read_text())))))
    variants = list(launches(file))
    assert {variant.name for variant in variants} == kernels - {"__launch_bounds__"}
    assert all(variant.signature for variant in variants)


def heads(text):
    """What stands from `__global__` to a parenthesis that is not of `__launch_bounds__`."""
    return re.findall(r'extern "C" __global__[^{;]*?\w+\s*\((?=[^()]*\)\s*\{)', text)


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nvrtc_compiles_it(file, architecture):
    for variant in launches(file):
        code = build.cubin(variant, ARCHITECTURES[architecture])
        assert code.startswith(b"\x7fELF")
        assert variant.name.encode() in code


@needs_nvrtc
def test_what_is_compiled_is_kept_until_something_it_depends_on_changes(tmp_path, monkeypatch):
    header, file = tmp_path / "own.cuh", tmp_path / "own.cu"
    header.write_text("#define ONE 1\n")
    file.write_text('#include "own.cuh"\nextern "C" __global__ void own_kernel(int* x) { x[0] = ONE + TWO; }')
    compiled, stock = [], build._compile
    monkeypatch.setattr(build, "_compile", lambda *given: (compiled.append(given), stock(*given))[1])

    def cubin(two="2", at=(9, 0)):
        variant = CudaVariant(file=str(file), name="own_kernel", threads=1, macros={"TWO": two})
        before = build.is_stored(variant, at)
        code = build.cubin(variant, at)
        assert build.is_stored(variant, at)
        assert before == (code in seen)
        seen.append(code)
        return code

    seen = []
    assert cubin() == cubin()
    assert len(compiled) == 1
    assert cubin(two="3") != cubin(at=(8, 0)) != cubin()
    assert len(compiled) == 3
    header.write_text("#define ONE 5\n")
    cubin()
    file.write_text(file.read_text().replace("x[0]", "x[1]"))
    cubin()
    assert len(compiled) == 5


@needs_nvrtc
def test_what_does_not_compile_is_told_in_the_compilers_words(tmp_path):
    file = tmp_path / "wrong.cu"
    file.write_text('extern "C" __global__ void wrong_kernel(int* x) { x[0] = unheard_of; }')
    with pytest.raises(
        RuntimeError, match=r'NVRTC \d+[\s\S]*wrong.cu\(1\): error: identifier "unheard_of" is undefined'
    ):
        build.cubin(CudaVariant(file=str(file), name="wrong_kernel", threads=1), (9, 0))


@pytest.fixture
def _afresh():
    build.why_cupy_fails.cache_clear()
    yield
    build.why_cupy_fails.cache_clear()


@pytest.mark.usefixtures("_afresh")
@pytest.mark.parametrize(
    ("at", "reason"), [((7, 5), "its compute capability is 7.5"), ((9, 0), "CuPy is not installed: pip install")]
)
def test_a_device_is_not_served_where_that_would_fail(monkeypatch, at, reason):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(build, "capability", lambda device: at)
    cuda = torch.device("cuda", 0)
    assert not build.serves(torch.device("cpu"))
    assert not build.serves(cuda)
    assert build.why_cupy_fails(cuda).startswith(reason)


@needs_nvrtc
@pytest.mark.usefixtures("_afresh")
@pytest.mark.parametrize("at", [(9, 0), (99, 0)])
def test_a_device_is_served_if_an_empty_kernel_is_loaded_there(monkeypatch, at):
    """A driver is not needed to see that; an architecture of which the compiler has not heard is the other case."""
    loaded = []
    monkeypatch.setattr(build, "Function", lambda variant, code, device: loaded.append((code[:4], device)))
    monkeypatch.setattr(build, "capability", lambda device: at)
    cuda = torch.device("cuda", 0)
    assert build.serves(cuda) == (at == (9, 0))
    assert loaded == ([(b"\x7fELF", cuda)] if at == (9, 0) else [])
    assert ("invalid value for --gpu-architecture" in build.why_cupy_fails(cuda)) == (at == (99, 0))
    assert "\n" not in build.why_cupy_fails(cuda)
