"""Build: compiles CUDA C++ kernels by NVRTC, and loads and launches them by CUDA's driver, both by way of CuPy.

    serves    whether kernels in CUDA C++ can run on a device; `why_cupy_fails` says why not
    cubin     a kernel's machine code: compiled, or from the cache on disk; needs no GPU and no driver
    load      a kernel on a device, ready to be launched

The cache on disk is Triton's (`TRITON_CACHE_DIR`), so that there is one place for all kernels. CuPy has a cache of its
own, and `cupy.RawModule` to fill it; but that compiles nothing without loading it onto a GPU, which the process that
compiles ahead must not do, and adds options of its own. What is used of CuPy are its bindings of NVRTC and of the
driver.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Hashable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..device import capability, current
from .variant import CudaVariant, Words

OLDEST = (8, 0)
"""The first compute capability with FP64 instructions of the tensor cores, and the oldest that is served."""
STATIC_SHARED = 48 * 1024
"""Bytes of dynamic shared memory up to which a kernel need not ask for them."""


class Function:
    """A kernel that has been loaded onto a device.

    Args:
        variant: the kernel, and how it is launched.
        code: the machine code of its file.
        device: the CUDA device.
    """

    def __init__(self, variant: CudaVariant, code: bytes, device: torch.device) -> None:
        from cupy.cuda import driver, runtime

        self._driver, self._runtime, self._device = driver, runtime, device.index or 0
        with current(device):
            self._runtime.setDevice(self._device)
            self._module = driver.moduleLoadData(code)  # never unloaded: a CUDA graph may launch what is in it
            self._function = driver.moduleGetFunction(self._module, variant.name)
            if variant.shared > STATIC_SHARED:
                size = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                carveout = driver.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
                driver.funcSetAttribute(self._function, size, variant.shared)
                driver.funcSetAttribute(self._function, carveout, 100)  # per cent, so that as many blocks fit as can
        self._block = (variant.threads, 1, 1, variant.shared)

    def launch(self, grid: tuple[int, ...], words: Words, stream: int) -> None:
        """Launches on the raw CUDA `stream` of the kernel's device."""
        driver = self._driver
        if not driver.ctxGetCurrent():  # in a thread that has done nothing on a GPU yet
            self._runtime.setDevice(self._device)
        driver.launchKernel(self._function, *grid, *self._block, stream, words.address, 0)


_loaded: dict[tuple[Hashable, torch.device], Function] = {}
_loading = threading.Lock()


def load(variant: CudaVariant, device: torch.device) -> Function:
    """The kernel of a variant on `device`, on which it is loaded once. Tests replace this function."""
    with _loading:
        found = _loaded.get((variant.key, device))
        if found is None:
            found = _loaded[variant.key, device] = Function(variant, cubin(variant, capability(device)), device)
        return found


def cubin(variant: CudaVariant, capability: tuple[int, int]) -> bytes:
    """The machine code of a variant's file for one architecture, from the cache on disk or compiled into it."""
    cache, name = _place(variant, capability)
    path = cache.get_file(name)
    if path is not None:
        return Path(path).read_bytes()
    made = _compile(variant.source, variant.path.name, variant.headers, _options(capability, variant.macros))
    cache.put(made, name)
    return made


def is_stored(variant: CudaVariant, capability: tuple[int, int]) -> bool:
    """Whether the cache on disk has the machine code that `cubin` returns."""
    cache, name = _place(variant, capability)
    return cache.get_file(name) is not None


def _place(variant: CudaVariant, capability: tuple[int, int]) -> tuple[Any, str]:
    """Triton's cache for whatever the machine code depends on, and the name of the file in it."""
    from cupy.cuda import nvrtc
    from triton.runtime.cache import get_cache_manager

    told = (variant.source, variant.headers, _options(capability, variant.macros), nvrtc.getVersion())
    return get_cache_manager(hashlib.sha256(repr(told).encode()).hexdigest()), f"{variant.path.stem}.cubin"


def _options(capability: tuple[int, int], macros: Mapping[str, int | str]) -> tuple[str, ...]:
    architecture = "--gpu-architecture=sm_{}{}".format(*capability)
    return (architecture, "--std=c++17", *(f"-D{name}={value}" for name, value in macros.items()))


def _compile(source: str, name: str, headers: Mapping[str, str], options: tuple[str, ...]) -> bytes:
    """Compiles by NVRTC, which does not hold the lock of Python's interpreter meanwhile.

    Raises:
        RuntimeError: that does not go; with the compiler's words.
    """
    from cupy.cuda import nvrtc

    given = [text.encode() for text in headers.values()], [header.encode() for header in headers]
    program = nvrtc.createProgram(source, name, *given)
    try:
        nvrtc.compileProgram(program, options)
        return bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        said = nvrtc.getProgramLog(program).strip() or str(error)
        raise RuntimeError(f"NVRTC {'.'.join(map(str, nvrtc.getVersion()))}: {said}") from error
    finally:
        nvrtc.destroyProgram(program)


def serves(device: torch.device) -> bool:
    """Whether kernels in CUDA C++ can run on `device`."""
    return device.type == "cuda" and not why_cupy_fails(device)


@cache
def why_cupy_fails(device: torch.device) -> str:
    """The reason, in one line, why CUDA C++ cannot run on a CUDA device; the empty string if it can.

    An empty kernel is compiled and loaded, so that whatever is missing, or does not know the device, shows here.
    """
    at = capability(device)
    if at < OLDEST:
        return f"its compute capability is {at[0]}.{at[1]}, and CUDA C++ kernels need {OLDEST[0]}.{OLDEST[1]}"
    try:
        import cupy  # noqa: F401
    except ModuleNotFoundError:
        return f"CuPy is not installed: pip install cupy-cuda{(torch.version.cuda or '13').partition('.')[0]}x"
    except Exception as error:
        return f"CuPy cannot be imported: {_line(error)}"
    empty = CudaVariant(file="empty.cu", name="empty_kernel", threads=1)
    try:
        code = _compile('extern "C" __global__ void empty_kernel() {}', empty.file, {}, _options(at, {}))
        Function(empty, code, device)
    except Exception as error:  # whatever it is, a kernel's launch would raise the same
        return f"CuPy cannot compile and load a kernel: {_line(error)}"
    return ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
