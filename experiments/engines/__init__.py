"""Where jobs run: processes of this machine, or a Ray cluster (`ray`, which brings that package)."""

from .engine import Engine
from .local import LocalEngine, available_cores

__all__ = [
    "Engine",
    "LocalEngine",
    "available_cores",
    "ray",
]
