"""Sharing: how the processes of a job measure the matrices of a sharded model together.

holdings    what each rank declares of each matrix, and whether all of it fits together
traffic     which matrix is measured where, and which bytes travel for it
plan        who measures what, and which way it travels there: `make_plan`
"""

from ..weights import Span
from .holdings import Holding
from .plan import Plan, make_plan
from .traffic import Placement, Way, slices

__all__ = [
    "Holding",
    "Placement",
    "Plan",
    "Span",
    "Way",
    "make_plan",
    "slices",
]
