"""Weights: which weights of a model are tracked, as which matrices, and what these are now.

places      where a model keeps its weights, and their names
effective   the weight that a parametrized, pruned or normed layer uses
layers      as which matrices a layer sees its weight
coverage    which weights are wanted
readable    of which tensors a rank can be counted
kept        whether a model has kept its weights since they were last read
tracked     all of that together: `TrackedWeights`
changes     the gradients of weights, and what a step has made of them
derived     what functions of the model make, for which it has no parameter
matrices    weights, their changes and what is derived: `TrackedMatrices`
source      a matrix with its parameter, as the rest of the library takes it
"""

from .changes import difference_of
from .coverage import Choice, CoverageTable, Select, WeightsOf
from .derived import Track
from .effective import read_weight
from .matrices import TrackedMatrices
from .places import clean_name, unwrapped
from .readable import DTYPES, is_sharded
from .source import Source, version_of
from .tracked import TrackedWeights

__all__ = [
    "DTYPES",
    "Choice",
    "CoverageTable",
    "Select",
    "Source",
    "Track",
    "TrackedMatrices",
    "TrackedWeights",
    "WeightsOf",
    "clean_name",
    "difference_of",
    "is_sharded",
    "read_weight",
    "unwrapped",
    "version_of",
]
