"""Checkpoints of other people's models, without their code: from a path to the weights that their layers use.

`read` opens a file, a folder of parts or an index of them; `choose` says where in it the weights are, and names what
stands beside them; `weights_in_use`, `as_layer` and `pieces` tell from names and shapes what a layer makes of a tensor.
"""

from .files import AnalyzeError
from .groups import choose
from .layers import Split, as_layer, pieces, weights_in_use
from .parts import read

__all__ = [
    "AnalyzeError",
    "Split",
    "as_layer",
    "choose",
    "pieces",
    "read",
    "weights_in_use",
]
