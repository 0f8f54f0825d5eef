"""Growth: how much the factors of a count may grow, and what is done about those that have grown more.

An unpivoted LDL^T of G - tau^2 I is exact for a matrix nearby, and how near depends on the growth of its factors, which
is measured after they are made. But the shift at which they are made has to allow for it before that. A large limit
makes brackets wide, and a small one is exceeded often: growth differs much from one shift to the next, because it is
large wherever an eigenvalue of a leading block happens to be near the shift. So the limit is one that few factors
exceed, and those that do are made once more, with the shift moved by what their growth asks for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..reference import residual_terms, unpivoted_terms

Number = float | Tensor

WIDENING = 1e-8
"""Share of tau^2 by which delta is widened, at least, to allow for more growth: the larger tau is, the larger an error
of tau^2 can be tolerated."""
AGAIN_ABOVE = 512
"""Largest r of the matrices that the kernels count only once; see `unpivoted`."""


class Assumed(NamedTuple):
    """What delta assumes of the factors of a matrix A = G - tau^2 I: that they are exact for a matrix within
    u (own ||A|| + terms growth) of A, and that their growth, which is measured, is within a limit."""

    terms: Number
    """Most operations that one of the products subtracted from an element of A goes through."""
    growth: Number
    """The limit, in units of ||A||."""
    widening: Number
    """What is added to the limit, as the share of tau^2 by which it makes delta wider."""
    own: Number
    """Most operations that an element of A itself goes through."""


def residual(order: float) -> Assumed:
    """Of factors of which the residual is known: their growth is in the units of `reference.inertia`, and 1 to 4 in
    practice. An element of A itself goes through the subtraction of the shift."""
    return Assumed(residual_terms(order), 8.0, WIDENING, 4.0)


SUM = 16
"""Products that the kernels for CPUs add up by themselves, before the sum is added to those of others."""


def blocked_terms(count: Number) -> Tensor:
    """Most operations that one of `count` products goes through in a sum of the kernels for CPUs (blocked summation,
    Higham, chapter 4): much less than their number, which is what brackets of other sums allow for."""
    count = torch.as_tensor(count, dtype=torch.float64)
    return torch.minimum(count, SUM + count / SUM)


def recounted(order: Number) -> Assumed:
    """Of the factors that the kernels for CPUs make, without pivoting either.

    There a second count costs no more than the first and is made for the one matrix that needs it, so the limit is what
    most factors keep to (see `unpivoted` for what was seen). An element of A itself goes through few operations: the
    shift is subtracted, and a pivot may be replaced (theorem 9.3 of Higham's has no other term than |L| |D| |L^T|). A
    product goes through those of its sum, and six more: it is scaled, and an element is factored by tiles. Brackets are
    10 to 300 times narrower for all that than with `unpivoted`.
    """
    order = torch.as_tensor(order, dtype=torch.float64)
    widening = (2e-8 * (order / 512) ** 2.5).clamp(min=5e-10)
    return Assumed(blocked_terms(order) + 6.0, 1.0625, widening, 4.0)


def unpivoted(order: Tensor) -> Assumed:
    """Of the factors that the kernels make, without pivoting, of matrices of these orders.

    Growth without pivots is usual where tau is in the midst of the spectrum, and the larger tau is the more of it there
    is: 630 ||W||_F^2 in the middle for r = 512 and tau = 0.04 ||W||_F, 2 for 1e-3. What it asks of delta, as a share of
    tau^2, depends on r alone, nearly. Seen in the middle, at 95 % and at most, of FP64 factors in PyTorch, with eight
    kinds of spectra:

        r       factors     tau = 1e-3 ||W||_F          0.01 ||W||_F                0.04 ||W||_F
        128     800 each    2.2e-8  2.5e-8  7.1e-8      8.1e-10 4.0e-9  1.7e-7      6.0e-10 3.3e-9  1.1e-7
        256     320         3.9e-8  7.0e-8  2.7e-6      4.8e-9  3.1e-8  4.8e-7      4.5e-9  2.3e-8  2.8e-6
        512     160         1.0e-7  2.7e-7  3.7e-6      4.4e-8  2.0e-7  1.9e-6      3.5e-8  1.2e-7  5.8e-7
        1024    64          3.1e-7  2.5e-6  7.4e-6      2.0e-7  2.3e-6  4.6e-6      9.4e-8  2.6e-7  5.3e-7
        2048    32          1.1e-6  3.6e-6  2.3e-5      1.0e-6  3.8e-6  7.1e-6      2.3e-7  5.8e-7  1.2e-6
        4096    16          3.9e-6  1.3e-5  2.3e-5      4.0e-6  2.0e-5  3.2e-5      3.1e-7  1.8e-6  3.1e-6

    Up to r = 512, where nothing is counted twice, delta has room for tens of times what is usual; the limit for r > 512
    is exceeded now and then, and more often the larger r is. To tau = 1e-4 ||W||_F growth is nearer to 1.
    """
    part = order / 512
    widening = 1e-5 * torch.maximum((part * part * part).clamp(max=1.0), part * part / 16)
    growth = torch.where(order <= AGAIN_ABOVE, 32.0, 8.0)
    return Assumed(unpivoted_terms(order), growth, widening.clamp(min=WIDENING), unpivoted_terms(order))
