"""The kernels by name, without importing them: Triton may be missing, and importing takes its time."""

from __future__ import annotations

import re
from pathlib import Path

import cuda_variants

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
DEFINED = re.compile(r"^def (\w+_kernel)\(", re.MULTILINE)


def files() -> list[Path]:
    """Files that have Triton kernels."""
    return [path for path in sorted(KERNELS.rglob("*.py")) if DEFINED.search(path.read_text())]


def cuda_files() -> list[Path]:
    """Files that have kernels in CUDA C++."""
    return sorted(KERNELS.rglob("*.cu"))


def triton_kernels() -> list[str]:
    """Names of those in Triton, as a profiler shows them."""
    return sorted({name for path in files() for name in DEFINED.findall(path.read_text())})


def kernels() -> list[str]:
    """Names of all of them."""
    in_cuda = {launch.kernel for path in cuda_files() for launch in cuda_variants.launches(path)}
    return sorted({*triton_kernels(), *in_cuda})
