"""Sweeps: everything from a configuration file to trials with results.

`run_sweep` is ``fastrank sweep``: one driver keeps a queue of jobs, hands them to an engine, writes the ledger and
shows the progress. `print_plan` and `print_status` only look. `kind`, `number` and `titled` serve other commands.
"""

from .config import load_config
from .devices import kind
from .options import Options
from .plan import print_plan, print_status
from .summary import number, titled
from .sweep import run_sweep

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
