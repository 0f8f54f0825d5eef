"""Probe: every assumption of the proofs about arithmetic, tested on one device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import backend
from .finding import Finding


def probe(device: torch.device, orders: Sequence[int] = (1, 4, 16, 64, 256)) -> list[Finding]:
    """Test on `device` what the proofs assume of its arithmetic, against exact arithmetic in integers.

    Takes two to ten seconds on a CPU, and compiles kernels that are not compiled yet, which takes longer.

    Args:
        orders: powers of 4, of the matrices whose ranks are counted (default: up to 256).

    Returns:
        A finding for each assumption and each implementation that relies on it.
    """
    from . import counts, products, rounding
    from .required import emulation_of, rounding_of_thread, rounding_of_threads
    from .ways import decompositions, factors, slices, ways

    found = [rounding_of_thread(), rounding_of_threads(device), *rounding.findings(device)]
    found += [emulation_of(device), *products.findings(device)]
    for way in ways(device):
        found += counts.findings(way, device, orders)
    if backend.kernels_serve(device):
        found.append(factors(device, orders))
        if backend.integer_products(device):
            found.append(slices(device, [(7, 9), (70, 130), (64, 1000)]))
    return [*found, decompositions(device, orders)]
