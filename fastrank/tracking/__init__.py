"""Tracking: measures the rank of every weight matrix of a model while it trains; `RankTracker` is the public class.

The way from an optimizer's step to a row of the history:

    tracker, hooks      after which steps the matrices are measured; the optimizer's hooks that call the tracker
    matricize, source   which parameters are tracked, as which matrices; a matrix together with its parameter
    measurer            chooses one of the three ways to measure: by `sketch_measurer` (which stands on `bases`,
                        `basis_groups` and `basis_size`), by `count_measurer` or by `stack_measurer`
    row                 makes the columns of the history from what was measured

`ahead` and `compilation` have the kernels compiled before they are launched.
"""

from .ahead import prepare
from .tracker import RankTracker

__all__ = [
    "RankTracker",
    "prepare",
]
