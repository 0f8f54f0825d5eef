"""The matrices of a model, which tells itself what its layers make of its tensors."""

from __future__ import annotations

from torch import nn

from ..weights import Choice, TrackedWeights
from .errors import AnalyzeError
from .matrices import Matrices, as_it_is, counted, current

NOT_CHOSEN = ("(not included)", "(excluded)")


def of_model(model: nn.Module, choice: Choice) -> Matrices:
    """The matrices of a model as they are now, where they are. Nothing in the model is changed.

    Raises AnalyzeError where nothing is a matrix, and for a weight that cannot be read.
    """
    try:
        weights = TrackedWeights(model, choice)
        tensors = current(weights)
    except ValueError as error:
        raise AnalyzeError(str(error)) from error
    kernels = [weight for weight in weights.coverage if "Conv" in weight.module and len(weight.shape) > 2]
    convolutions = {name for weight in kernels for name in weight.matrices}
    without = [weight for weight in weights.coverage if not weight.matrices]
    matrices = [weight for weight in without if len(weight.shape) > 1]
    named = [f"{weight.name} {weight.reason}" for weight in matrices if weight.reason not in NOT_CHOSEN]
    found = {name: as_it_is(x, name in convolutions) for name, x in tensors.items()}
    return Matrices(found, {}, named + counted(len(without) - len(matrices), len(matrices) - len(named)), {}, [])
