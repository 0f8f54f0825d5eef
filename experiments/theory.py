"""What the theory predicts: the rank bound of arXiv 2206.05794."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import UserError


class TheoryError(UserError, ValueError):
    """A number the theory does not cover. The message starts with its name."""


def rank_bound(batch_size: int, patches: int, lr: float, weight_decay: float, eps: float) -> float:
    """Bound of the rank that SGD with weight decay tends to: ``patches*batch_size*log(2/eps) / (lr*weight_decay)``.

    For a layer W trained by plain mini-batch SGD, and T large, ``W_T / ||W_T||`` lies within ``eps`` of some matrix of
    at most this rank. The reason: a step is ``W <- (1 - lr*weight_decay) W - lr*G``, where the gradient has
    ``rank(G) <= batch_size * patches``. W_T is therefore the sum of two parts. One is what is left of the W of
    ``log(2/eps) / (lr*weight_decay)`` steps ago: no more than ``eps/2`` of its norm. The other is a sum of the
    gradients since then, whose rank is at most their number times that of each.

    Args:
        batch_size: B, samples a step.
        patches: N, how many vectors of one sample the matrix multiplies, as
            `fastrank.experiments.networks.count_patches` counts them.
        lr: mu, the learning rate.
        weight_decay: PyTorch's, which is 2*lambda: the paper's loss has ``lambda * ||W||^2``. 0 is allowed.
        eps: distance in the Frobenius norm, relative to W, between 0 and 1 (both excluded).

    Returns:
        The bound; infinite without weight decay. It says nothing where it is above the layer's smaller side, which it
        is at most usual settings.

    Raises:
        TheoryError: a number out of range, or ``lr * weight_decay`` above 1, where W does not shrink but changes sign.

    Source: Galanti, Siegel, Gupte & Poggio, "SGD and Weight Decay Secretly Minimize the Rank of Your Neural Network",
    arXiv 2206.05794. Assumed: momentum 0; learning rate, decay and batch size constant over the last
    ``log(2/eps) / (lr*weight_decay)`` steps; and ``||W||`` settled, so that it does not fall by more than half in them.
    Nothing is assumed of data, loss or convergence. The number of steps is not rounded up, and for ``eps`` up to
    ``2/e^2`` (0.27) need not be. The numerical rank at a tolerance of ``eps * ||W||`` is at most this bound as well,
    because the distance of W from every matrix of rank r is at least sigma_{r+1}.
    """
    for name, count in (("batch_size", batch_size), ("patches", patches)):
        if not count >= 1:
            raise TheoryError(f"{name}: must be at least 1, not {count!r}")
    if not 0 < lr < math.inf:
        raise TheoryError(f"lr: must be finite and greater than 0, not {lr!r}")
    if not 0 <= weight_decay < math.inf:
        raise TheoryError(f"weight_decay: must be finite and at least 0, not {weight_decay!r}")
    if not 0 < eps < 1:
        raise TheoryError(f"eps: must lie between 0 and 1, both excluded, not {eps!r}")
    decay = lr * weight_decay
    if decay > 1:
        raise TheoryError(f"weight_decay: times lr it is {decay:g}, and must be at most 1; lower one of them")
    return math.inf if decay == 0 else patches * batch_size * math.log(2 / eps) / decay


def memory(
    steps: NDArray[np.float64], lrs: Sequence[float], epoch: float, weight_decay: float, eps: float
) -> NDArray[np.float64]:
    """How many steps W remembers, at each of `steps`: of what it was before them at most ``eps/2`` of the norm is left.

    This number times ``patches * batch_size`` bounds the rank of W, if W has not lost more than half of its norm in
    those steps: what is left of the old W is then at most ``eps`` of the norm that W has now. With a constant learning
    rate the number is ``log(2/eps) / (lr*weight_decay)``, and the bound is `rank_bound`. After the learning rate has
    fallen W forgets more slowly, and the bound rises.

    Args:
        steps: (n,) steps of training, counted from 1.
        lrs: the learning rate of every epoch.
        epoch: how many steps an epoch has.
        weight_decay: PyTorch's, greater than 0.
        eps: as of `rank_bound`.

    Returns:
        (n,) numbers of steps; infinite where training has not been so long, and the theory says nothing yet.
    """
    edges = np.arange(len(lrs) + 1) * epoch
    forgotten = np.append(0.0, np.cumsum(lrs)) * epoch * weight_decay  # sums of lr*weight_decay, to every edge
    since = np.interp(steps, edges, forgotten) - math.log(2 / eps)
    return np.where(since >= 0, steps - np.interp(since, forgotten, edges), np.inf)
