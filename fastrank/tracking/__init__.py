"""Tracking: records the rank of every weight matrix of a model while it trains; `RankTracker` is the public class.

    tracker      the class
    hooks        the optimizer's hooks that call the tracker
    steps        counts the steps, and says after which of them the matrices are measured
    optimizers   which optimizers can be followed, and `wrapped`, when the step of a wrapper is over
    readings     what is read of a tracker: tables, scalars, pictures; `standing`, what its reprs say
    watch        tells sinks and alerts of rows as they arrive; `scalars`, the numbers for sinks
    checkpoint   the form of a tracker's state
    graphs       what a tracker does in a step that is compiled
    training     what the callbacks of trainers share: a tracker from the begin of a training to its end
    ahead        lists the kernels that a tracker may launch, and has them compiled

Which matrices there are is for `fastrank.weights` to say, what is measured of them for `fastrank.measuring`, and where
the rows go for `fastrank.history`.
"""

from .ahead import prepare
from .tracker import RankTracker
from .training import TrackedTraining

__all__ = [
    "RankTracker",
    "TrackedTraining",
    "prepare",
]
