"""Require: no certificate where the arithmetic is not what the proofs assume.

Before the first certificate on a device one small matrix product is compared with the exact one. From then on, each
call tests the rounding mode of its thread by two sums in Python, because C's `fesetround` can change it at any time.
"""

from __future__ import annotations

import os

import torch

from ..device import capturing
from .finding import NATIVE, TO_NEAREST, Finding

_HALF, _NEXT, _AFTER = 2.0**-53, 1 + 2.0**-52, 1 + 2.0**-51
_proven: set[torch.device] = set()
"""Devices whose products are what they have to be."""


def require(device: torch.device) -> None:
    """Refuse certificates on `device` where rounding or products are not as the proofs assume them.

    Costs two sums after the first call. On a CUDA device the first call waits for the device; in the capture of a CUDA
    graph, where nothing can be waited for, it is left to a later one.

    Raises:
        RuntimeError: an assumption does not hold. It names the device, the assumption, what was seen and the cure.
    """
    if _NEXT + _HALF == _AFTER and 1.0 + _HALF == 1.0 and device in _proven:
        return
    _refuse(rounding_of_thread(), torch.device("cpu"))
    if capturing(device):
        return
    for finding in (emulation_of(device), _product(device)):
        _refuse(finding, device)
    _proven.add(device)


def _refuse(finding: Finding, device: torch.device) -> None:
    if not finding.passed:
        raise RuntimeError(
            f"{device}: nothing can be certified, because this does not hold here: {finding.assumption}. "
            f"{finding.seen}. To mend it, {finding.cure}. `fastrank doctor --probe` tests all that proofs assume"
        )


def rounding_of_thread() -> Finding:
    """Whether the calling thread rounds to nearest; upwards, downwards and to zero one of these sums is wrong."""
    for x, right in ((1.0, 1.0), (_NEXT, _AFTER), (-_NEXT, -_AFTER)):
        found = x + (_HALF if x > 0 else -_HALF)
        if found != right:
            seen = f"{x.hex()} {'+' if x > 0 else '-'} 2^-53 gave {found.hex()}, and {right.hex()} is right"
            return Finding(THREAD, False, seen, TO_NEAREST)
    return Finding(THREAD, True, "1 + 2^-53 and two more sums are what they have to be")


THREAD = "the thread that asks rounds to nearest"


def rounding_of_threads(device: torch.device) -> Finding:
    """Whether all threads of PyTorch round to nearest on a CPU: each has its mode from the thread that started it.

    The kernels for CPUs run in the same threads. Of a GPU every instruction has its own mode. `require` does not ask
    this, because it would start the threads of a process that may never need them.
    """
    name = "all of PyTorch's threads round to nearest"
    if device.type != "cpu":
        return Finding(name, True, "there are none on this device")
    threads = torch.get_num_threads()
    x = torch.tensor([1.0, _NEXT], dtype=torch.float64, device="cpu").repeat(A_THREAD // 2 * threads).add_(_HALF)
    wrong = x.view(-1, 2) != torch.tensor([1.0, _AFTER], dtype=torch.float64, device="cpu")
    if wrong.any():
        return Finding(name, False, f"of {len(x)} sums on {threads} threads, {int(wrong.sum())} are wrong", TO_NEAREST)
    return Finding(name, True, f"{len(x)} sums on {threads} threads are right")


A_THREAD = 2**15
"""Elements of a sum of tensors that PyTorch gives to each thread, if there are as many for each."""


def emulation_of(device: torch.device) -> Finding:
    """Whether cuBLAS is told to make FP64 products of narrower ones."""
    name = "no setting lowers the precision of FP64 products"
    if device.type != "cuda":
        return Finding(name, True, "there is none for a CPU")
    told = os.environ.get("CUBLAS_EMULATE_DOUBLE_PRECISION", "0")
    if told.strip() in ("", "0"):
        return Finding(name, True, "CUBLAS_EMULATE_DOUBLE_PRECISION is not set")
    return Finding(name, False, f"CUBLAS_EMULATE_DOUBLE_PRECISION is {told}", NATIVE)


def _product(device: torch.device) -> Finding:
    from .products import small

    # cuBLAS is not called by PyTorch where it is told to be deterministic, unless the environment says more.
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type != "cuda" or not strict:
        return small(device)
    torch.use_deterministic_algorithms(False)
    try:
        return small(device)
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warn)
