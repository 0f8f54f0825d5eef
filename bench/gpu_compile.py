"""Compiles every variant of every kernel into Triton's own cache, by a process a core, before anything launches one.

Those in CUDA C++ are compiled by NVRTC into the same cache, where CuPy and NVRTC are installed; those of a CPU, with
whose answers tests compare, by Numba meanwhile.

    python bench/gpu_compile.py [--arch sm_90] [--only MODULE ...] [--jobs N]

What follows then finds its kernels there: compiling one after the other, in the middle of tests, takes ten times as
long. Exits with 1 if one does not compile.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cuda_variants
import gpu_names


def architecture() -> str:
    """Of the device; asked for by another process, because what follows forks and CUDA does not survive that."""
    script = "import torch; print('sm_%d%d' % torch.cuda.get_device_capability())"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def why_no_nvrtc() -> str:
    """Why CUDA C++ cannot be compiled here; empty if it can."""
    script = "from cupy.cuda import nvrtc; nvrtc.getVersion()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def begin_numba() -> subprocess.Popen[bytes]:
    """Begins to compile the kernels of a CPU into Numba's cache, all in one process."""
    script = "import torch, fastrank; fastrank.linalg.spectral_norm(torch.eye(2))"
    return subprocess.Popen([sys.executable, "-c", script])


def compile_one(work: tuple[str, int, str]) -> tuple[str, float, str]:
    """Name, seconds, and what went wrong, if anything did."""
    file, place, architecture = work
    name, compiled = (_in_cuda if file.endswith(".cu") else _in_triton)(file, place, architecture)
    started = time.perf_counter()
    try:
        compiled()
    except Exception as error:
        return name, time.perf_counter() - started, f"{type(error).__name__}: {error}"
    return name, time.perf_counter() - started, ""


def _in_triton(file: str, place: int, architecture: str) -> tuple[str, Callable[[], object]]:
    """Name of a variant, and what compiles it."""
    import triton_variants
    from triton.backends.compiler import GPUTarget

    from fastrank.kernels.compile import store

    variant = _variants(file, architecture)[place]
    target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)
    return f"{file}.{triton_variants.jit(variant.kernel).__name__}  {variant}", partial(store, variant, target)


def _in_cuda(file: str, place: int, architecture: str) -> tuple[str, Callable[[], object]]:
    """The same for a launch that a file in CUDA C++ names."""
    from fastrank.kernels import cuda
    from fastrank.kernels.device import ARCHITECTURES

    launch = _variants(file, architecture)[place]
    macros = dict(macro.split("=") for macro in launch.macros)
    told = {"threads": launch.threads, "shared": launch.shared, "macros": macros}
    variant = cuda.CudaVariant(file=file.rpartition("/")[2], name=launch.kernel, **told)
    return f"{file}.{launch.kernel}  {launch}", partial(cuda.build.cubin, variant, ARCHITECTURES[architecture])


def _variants(file: str, architecture: str) -> list:
    """What is compiled of a file, of either kind."""
    if file.endswith(".cu"):
        found = cuda_variants.launches(gpu_names.KERNELS / file)
        return [launch for launch in found if architecture in (launch.architectures or (architecture,))]
    import triton_variants

    found, _ = triton_variants.variants(triton_variants.load(gpu_names.KERNELS / file))
    return [variant for variant in found if not variant.architectures or architecture in variant.architectures]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", help="default: the device's")
    parser.add_argument("--only", nargs="+", default=[], help="modules, by the names of their files (default: all)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: cores)")
    options = parser.parse_args()
    started, arch = time.perf_counter(), options.arch or architecture()
    numba = begin_numba()
    os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported
    files = gpu_names.files()
    if why := why_no_nvrtc():
        print(f"no kernel in CUDA C++ is compiled, for none is launched: {why}")
    else:
        files = [*gpu_names.cuda_files(), *files]
    names = [path.relative_to(gpu_names.KERNELS).as_posix() for path in files]
    chosen = [name for name in names if not options.only or Path(name).stem in options.only]
    work = [(name, i, arch) for name in chosen for i in range(len(_variants(name, arch)))]
    with contextlib.suppress(ImportError):
        from triton.runtime.cache import triton_key

        triton_key()  # a second of hashing, which every process would do by itself
    failed, spent = [], 0.0
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
        for name, seconds, problem in pool.map(compile_one, work):
            spent += seconds
            print(f"{seconds:6.2f} s  {name}{f'  FAILED: {problem}' if problem else ''}", flush=True)
            failed += [name] if problem else []
    if without := numba.wait():
        print("Numba does not compile the kernels of a CPU")
    wall = time.perf_counter() - started
    print(
        f"{len(work) - len(failed)} of {len(work)} variants compiled for {arch}: {spent:.0f} s of work in {wall:.0f} s"
    )
    return bool(failed or without)


if __name__ == "__main__":
    sys.exit(main())
