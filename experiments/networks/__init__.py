"""The networks that sweeps train.

`build` makes a network from its name, with initial parameters that depend on the seed alone; NetworkError says which
option does not fit. `count_patches` gives the N of the paper's rank bound for every layer. `MLP` is named here because
`training` stacks many of them.
"""

from .checks import NetworkError
from .mlp import MLP
from .patches import count_patches
from .recipes import build

__all__ = [
    "MLP",
    "NetworkError",
    "build",
    "count_patches",
]
