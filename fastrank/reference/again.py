"""Again: where to count once more, because factors made without pivots have grown more than they were allowed to.

    limit' = min(MARGIN growth, MOST limit)
    s'     = s -+ (1 + 2^-20) u terms (limit' - limit)         - for an upper bound, + for a lower one

What was measured at one shift tells what to expect at a shift nearby, so there is no need to guess it. Where growth is
so large that a pivot must have been near zero by accident, it tells nothing, and it is enough to move away from there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .grams import Moments
from .residual import UNIT

MARGIN = 4.0
"""How much more than what was measured the factors of a second count may grow."""
MOST = 64.0
"""The same, compared with what those of the first were allowed."""
SPARE = 1.0 + 2.0**-20
"""Factor of delta: the matrix that is factored is shifted by delta too, and delta itself is rounded."""


def unpivoted_terms(order: Tensor) -> Tensor:
    """Most operations on an element in the kernels, whose sums are added up anew every 512 products (`inertia.ldl`)."""
    return torch.minimum(order, 576 + order / 128) + 64


def again(
    moments: Moments,
    shifts: Tensor,
    limits: Tensor,
    counts: Tensor,
    growth: Tensor,
    pairs: int,
    terms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Where to count once more because factors have grown more than they were allowed to.

    Such factors are allowed `MARGIN` times what they have grown, but no more than `MOST` times what they were allowed,
    and their shift is moved by as much as delta becomes wider, which is affine in the limit (see `shifts_around` of
    `fastrank.counting.bounds`). Where the lower bound is r, the upper bound's shift is taken to have had the same
    growth: `judge` reads no count there, so that the kernels need not have made it.

    Args:
        moments: of the Grams.
        shifts, limits: `(b, S)` FP64, in pairs: the upper bound's, the lower bound's.
        counts, growth: `(b, S)`, what was found there.
        pairs: how many of the pairs are such; of any further ones both shifts are moved down.
        terms: `(b,)`, most operations on an element of the factors (default: `unpivoted_terms`).

    Returns:
        Shifts, NaN where nothing is to be counted, and limits, those of before where nothing is.
    """
    order = torch.as_tensor(moments.order, dtype=torch.float64, device=shifts.device).expand(len(shifts))
    first = torch.arange(shifts.shape[1], device=shifts.device) < 2 * pairs
    up = first & (torch.arange(shifts.shape[1], device=shifts.device) % 2 == 1)
    full = first[1::2] & (counts[:, 1::2] == order[:, None])
    lower = growth[:, 1::2]
    growth = torch.stack([torch.where(full, lower, growth[:, ::2]), lower], -1).flatten(1)
    redo = ~(growth <= limits) & shifts.isfinite() & (moments.trace > 0)[:, None]
    wider = torch.where(MARGIN * growth < MOST * limits, MARGIN * growth, MOST * limits)
    moved = (wider - limits) * (UNIT * SPARE * (unpivoted_terms(order) if terms is None else terms))[:, None]
    moved = torch.where(up, shifts + moved, shifts - moved)
    return torch.where(redo, moved, torch.nan), torch.where(redo, wider, limits)
