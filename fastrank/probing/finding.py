"""Finding: what came of the test of one assumption on one device."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """Whether an assumption of the proofs holds on a device."""

    assumption: str
    """What a proof takes for granted, such as "FP64 products of PyTorch keep their bound, element by element"."""
    passed: bool
    seen: str
    """What was seen, in one sentence."""
    cure: str = ""
    """What to do where it has failed."""


TO_NEAREST = "set rounding to nearest again, with C's fesetround(FE_TONEAREST), before threads are started"
NATIVE = (
    "have FP64 matrices multiplied in FP64, without emulation and without Strassen's algorithm: unset "
    "CUBLAS_EMULATE_DOUBLE_PRECISION, or take another BLAS"
)
REPORTED = "measure on another device, and report this one"
"""Cures that several findings have."""
