"""Sweeps: from a configuration to trials with results: one driver, its queue of jobs, and what it says meanwhile."""

from .config import load_config
from .devices import kind
from .plan import print_plan, print_status
from .summary import number, titled
from .sweep import Options, run_sweep

__all__ = [
    "Options",
    "kind",
    "load_config",
    "number",
    "print_plan",
    "print_status",
    "run_sweep",
    "titled",
]
