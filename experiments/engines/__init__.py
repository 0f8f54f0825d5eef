"""Engines run jobs in other processes, and tell the driver what happens there.

`LocalEngine` has worker processes on this machine, `ray.RayEngine` tasks on a Ray cluster (the module is imported only
when it is asked for, because it needs that package). The driver knows both as an `Engine`.
"""

from .engine import Engine
from .local import LocalEngine, available_cores

__all__ = [
    "Engine",
    "LocalEngine",
    "available_cores",
    "ray",
]
