"""CUDA C++: kernels for which Triton finds no good code. Where they cannot run, kernels of Triton do the same.

A `.cu` file here is compiled by NVRTC, which has no headers: it includes nothing but `.cuh` files beside it. `variant`
says what a launch needs of a kernel; `build` compiles, loads and launches it by way of CuPy, which is optional.
"""

from . import build
from .variant import CudaVariant, Words

__all__ = ["CudaVariant", "Words", "build"]
