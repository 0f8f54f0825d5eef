"""Weights: which weights of a model are tracked, as which matrices, and what these are now.

places      where a model keeps its weights, and their names
effective   the weight that a parametrized, pruned or normed layer uses
layers      as which matrices a layer sees its weight: `boxes` of it
pieces      which part of a matrix this process has, where weights are sharded; `flattened` by the older FSDP
coverage    which weights are wanted
readable    of which tensors a rank can be counted
kept        whether a model has kept its weights since they were last read
tracked     all of that together: `TrackedWeights`, each of which is a `tracked_weight`
changes     the gradients of weights, and what a step has made of them
derived     what functions of the model make, for which it has no parameter
matrices    weights, their changes and what is derived: `TrackedMatrices`
source      a matrix with its parameter, as the rest of the library takes it
"""

from .changes import difference_of
from .coverage import Choice, CoverageTable, Select, WeightsOf, type_name
from .derived import Track
from .effective import parametrizations_of, read_weight, stored_in
from .matrices import TrackedMatrices
from .pieces import Piece, Span, whole
from .places import clean_name, unwrapped
from .readable import DTYPES, has_shards, is_ddp, is_fsdp, is_sharded, reshard
from .source import Source, refuse_pieces, version_of
from .tracked import TrackedWeights

__all__ = [
    "DTYPES",
    "Choice",
    "CoverageTable",
    "Piece",
    "Select",
    "Source",
    "Span",
    "Track",
    "TrackedMatrices",
    "TrackedWeights",
    "WeightsOf",
    "clean_name",
    "difference_of",
    "has_shards",
    "is_ddp",
    "is_fsdp",
    "is_sharded",
    "parametrizations_of",
    "read_weight",
    "refuse_pieces",
    "reshard",
    "stored_in",
    "type_name",
    "unwrapped",
    "version_of",
    "whole",
]
