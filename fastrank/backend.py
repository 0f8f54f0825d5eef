"""Choose which implementation does the work on a device. `fastrank doctor` prints the choices made here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from .metrics import Tolerance


def kernels_serve(device: torch.device) -> bool:
    """Whether the kernels do the work on `device`. Warns once if Triton is installed but cannot launch a kernel."""
    if device.type != "cuda" or not installed("triton"):
        return False
    reason = why_triton_fails()
    if reason:
        _warn_once(reason)
    return not reason


@cache
def why_triton_fails() -> str:
    """The reason why an installed Triton cannot launch a kernel on a CUDA device; the empty string if it can.

    Triton compiles its launchers with the machine's own C compiler and Python's headers, and looks for CUDA's library
    in its own way. Each of these is checked.
    """
    import triton

    if triton.knobs.build.impl is None:  # otherwise the user has replaced Triton's way of building launchers
        compiler = os.environ.get("CC")
        if compiler is not None and shutil.which(compiler.split()[0] if compiler.split() else "") is None:
            return f"the C compiler that the environment's CC names, {compiler!r}, is not there"
        if compiler is None and not (shutil.which("gcc") or shutil.which("clang")):
            return "Triton needs a C compiler, and there is neither gcc nor clang: install one, or name one in CC"
        scheme = sysconfig.get_default_scheme()
        folder = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
        if not (Path(folder) / "Python.h").exists():
            return f"Triton needs Python's C headers, and {folder} has no Python.h: install python3-dev"
    if torch.cuda.is_available():
        try:
            triton.runtime.driver.active.get_current_target()
        except Exception as error:  # a launch would raise the same, whatever it is
            return f"Triton's driver does not start: {' '.join(str(error).split())[:300] or type(error).__name__}"
    return ""


def compiled_serve(device: torch.device) -> bool:
    """Whether the kernels that Numba compiles do the work on `device`, a CPU."""
    return device.type == "cpu" and not why_numba_fails()


@cache
def why_numba_fails() -> str:
    """The reason why Numba compiles no kernels here; the empty string if it does."""
    if not installed("numba"):
        return "Numba is not installed: pip install 'fastrank[cpu]'"
    try:
        import numba
    except Exception as error:  # a NumPy that is too new for it, for example, or a library of LLVM that does not load
        return f"Numba cannot be imported: {' '.join(str(error).split())[:300]}"
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else ""


def why_not_cuda(device: torch.device) -> str:
    """Why Triton, and not CUDA C++, factors on `device`, where kernels serve; the empty string: CUDA C++ does.

    The kernels make this choice themselves, by the same function (`kernels/cuda/build.py`).
    """
    from .kernels.cuda import build

    return build.why_cupy_fails(device)


PRODUCTS = "FASTRANK_PRODUCTS"
"""Environment variable that overrules `integer_products` and `sketches_by_integers`: "fp64" or "integers"."""
ADVANTAGE = 4
"""Least factor by which Grams have to be faster by integers than in FP64, by the rates of an architecture. FP64 leaves
fewer ranks open and has been measured; integers have not."""
COARSE, FINE = 10, 13
"""How many products of INT8 slices make a Gram of FP32 numbers, see `fastrank.kernels.count.integer_gram`."""
SERVED = {COARSE: {"frobenius": 5e-3, "spectral": 0.1}, FINE: {"frobenius": 1e-4, "spectral": 2e-3}}
"""Smallest tolerances for which COARSE and FINE products are taken. What is left out of the Gram of usual matrices is
0.02 % of tau^2 for COARSE at the first, and for FINE at the paper's 1e-3 (see the table in
`fastrank.kernels.count.cut`): a bracket so wide has one of 512 singular values over three decades in it once in 80
times. At 1e-4 it is 2 %. For a tau relative to sigma_1 this is so of matrices with ||W||_F^2 of up to 512 sigma_1^2. An
absolute tau may be anything: it has FP64."""
FEW = 16
"""FP64 operations a clock and multiprocessor up to which sketches are made by integers. With 16 columns an element of W
takes 90 instructions by integers, 0.7 clocks (see `fastrank.kernels.sketch.sketch`), and 32 FP64 operations otherwise:
8 clocks at a rate of 4, and 0.25 at 128."""
SKETCHED = {"frobenius": 5e-4, "spectral": 1e-2}
"""Smallest tolerances for which sketches are made by integers. What these leave open, 1e-8 ||W||_F^2, is 4 % of tau^2
for the first; for the second, relative to sigma_1, where ||W||_F^2 is 400 sigma_1^2."""


def integer_products(device: torch.device, tolerances: Iterable[Tolerance] = ()) -> int:
    """How many products of INT8 slices make the Gram of an FP32 or narrower matrix on `device`: 10 or 13; 0: it is made
    in FP64.

    It is made of slices where tensor cores are `ADVANTAGE` times faster at that, and every tolerance is one of those
    that are `SERVED`; or where the environment says so.

    Raises:
        ValueError: the environment variable `FASTRANK_PRODUCTS` is neither "fp64" nor "integers".
    """
    told = _told()
    if told == "fp64" or (not told and why_fp64(device)):
        return 0
    return products_for(list(tolerances)) or (FINE if told else 0)


def products_for(tolerances: Sequence[Tolerance]) -> int:
    """The fewest products of slices that serve tolerances, see `SERVED`; 0: none do."""
    for products, least in SERVED.items():
        if _serve(least, tolerances):
            return products
    return 0


def sketches_by_integers(device: torch.device, tolerances: Iterable[Tolerance] = ()) -> bool:
    """Whether sketches, products of W with few columns, are made from INT8 slices on `device`: where FP64 units are so
    `FEW` that cutting W into slices takes less time than they do, and every tolerance is large enough (`SKETCHED`); or
    where the environment says so.

    Raises:
        ValueError: as `integer_products`.
    """
    from .kernels.device import RATES, capability

    told, rates = _told(), RATES.get(capability(device))
    if told:
        return told == "integers"
    return rates is not None and rates.fp64 <= FEW and _serve(SKETCHED, tolerances)


def _told() -> str:
    """What the environment says of products: "fp64", "integers", or nothing."""
    told = os.environ.get(PRODUCTS, "")
    if told not in ("", "fp64", "integers"):
        raise ValueError(f"{PRODUCTS}: 'fp64' or 'integers', or nothing, not {told!r}")
    return told


def _serve(least: Mapping[str, float], tolerances: Iterable[Tolerance]) -> bool:
    return all(t.value >= least.get(t.relative_to, float("inf")) for t in tolerances)


def why_fp64(device: torch.device) -> str:
    """Why Grams are made in FP64 on an architecture; the empty string where integers are faster by far."""
    from .kernels.device import RATES, capability

    at = capability(device)
    if at not in RATES:
        return f"the rates of compute capability {at[0]}.{at[1]} are not known here"
    factor = RATES[at].int8 / (COARSE * RATES[at].fp64)
    return "" if factor >= ADVANTAGE else f"integers are {factor:.1f} times as fast by the rates, less than {ADVANTAGE}"


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"fastrank: the kernels cannot serve CUDA devices, and PyTorch does their work, more slowly: {reason}",
        RuntimeWarning,
        stacklevel=4,
    )


class Choice(NamedTuple):
    """Which implementation does an operation on a device, and why: a row of what `fastrank doctor` prints."""

    operation: str
    device: str
    implementation: str
    reason: str


def report() -> list[Choice]:
    """The choice for every operation on every kind of device that this machine has."""
    choices = [
        *_counting_on_cpu(),
        Choice("rank", "cpu", "an FP64 SVD and its residual", "where tau is too small for a squared matrix"),
        Choice("svd_lowrank", "cpu", "FP32 products and FP64 Cholesky-QR, or all in FP64", "as its proof allows"),
        Choice(
            "SGD",
            "cpu",
            "torch.optim.SGD's own forms" if why_numba_fails() else "a kernel compiled by Numba",
            why_numba_fails() or "one pass over memory, where neither foreach nor fused is given",
        ),
    ]
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        failing = why_triton_fails() if installed("triton") else "Triton is not installed"
        by_kernels = not failing
        serving = "Triton kernels" if by_kernels else "LDL^T inertia on the host, by LAPACK and with its residual"
        reason = failing or "a whole network in a few launches"
        tracking = "sketches, and counts of what they leave open" if by_kernels else serving
        choices += [
            Choice("rank", name, serving, reason),
            Choice("tracking", name, tracking, reason),
            Choice("svd_lowrank", name, serving if by_kernels else "FP64 range finder by QR, then an SVD", reason),
            Choice("SGD", name, serving if by_kernels else "torch.optim.SGD's own forms", reason),
        ]
        if by_kernels:
            device = torch.device("cuda", torch.cuda.current_device())
            lacking = why_not_cuda(device)
            factoring = "Triton kernels" if lacking else "CUDA C++ kernels, by NVRTC through CuPy"
            why = lacking or "a shorter chain of instructions a pivot"
            choices += [Choice("LDL^T inertia", name, factoring, why), *_products(device, name)]
    return choices


def _products(device: torch.device, name: str) -> list[Choice]:
    grams, sketches, told = integer_products(device), sketches_by_integers(device), _told()
    slices = f"INT8 slices, but for FP64 matrices{'' if told else ' and small tolerances'}"
    given = f"{PRODUCTS}={told}" if told else ""
    why = given or why_fp64(device) or "INT8 units are faster than FP64 by far"
    why += "; delta is wider, usually by 0.02 % of tau^2 at 1e-3" if grams else ""
    few = given or ("few FP64 units" if sketches else "not known to have few FP64 units")
    return [
        Choice("Gram matrices", name, slices if grams else "FP64", why),
        Choice("sketches", name, slices if sketches else "FP64", few),
    ]


def _counting_on_cpu() -> list[Choice]:
    lacking = why_numba_fails()
    if lacking:
        return [
            Choice("rank", "cpu", "LDL^T inertia of the FP64 Gram, by LAPACK and with its residual", lacking),
            Choice("tracking", "cpu", "the same, and power iteration for sigma_1", lacking),
        ]
    compiled = "kernels compiled by Numba: LDL^T inertia of the FP64 Gram"
    return [
        Choice("rank", "cpu", compiled, "no LAPACK, all shapes in one call"),
        Choice("tracking", "cpu", "the same, and Lanczos for sigma_1", "one call a step"),
    ]


def installed(package: str) -> bool:
    """Whether `package` can be imported. It is looked for, but not imported."""
    return importlib.util.find_spec(package) is not None
