"""The networks of the sweeps, by name."""

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
