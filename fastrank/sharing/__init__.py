"""Sharing: the processes (ranks) of a job measure the matrices of one model together, each matrix once.

That is how the matrices of a sharded model are measured, of which no process has the whole, and how replicas share the
work. Every rank makes a tracker, and every rank has to take each step that is measured, as it has to take part in the
training itself. One that is missing is not waited for in vain: the others raise an error that names it, and says why if
it has said so, within the tracker's `timeout`. What travels, does so by a process group of its own.

share       whether processes measure together, and what they agree on before: `share_out`
holdings    what each rank declares of each matrix, and whether all of it fits together
plan        who measures what, and which way it travels there, by its `costs`: `make_plan`
traffic     the three ways of a matrix, and which bytes travel for it
moves       carries that out: `travelling` are the matrices of which no rank has all
sketching   measures those whose ranks are low without moving more than `thin` products; which these are is a `choice`
together    puts the rows of all ranks together, with which step it is, and whether to stop
measurer    `SharedMeasurer`, which measures a step
ranks       `Ranks`: the processes, and what travels between them
missing     where they meet, and which of them are missing, and why, in words: `telling`
notes       what the ranks write for each other in the job's store
"""

from ..weights import Span
from .costs import sketch_pays
from .holdings import Holding
from .measurer import SharedMeasurer
from .missing import telling
from .plan import Plan, make_plan
from .ranks import Ranks
from .share import Role, role_of, share_out
from .thin import bytes_sent
from .traffic import Placement, Sketch, Way, slices

__all__ = [
    "Holding",
    "Placement",
    "Plan",
    "Ranks",
    "Role",
    "SharedMeasurer",
    "Sketch",
    "Span",
    "Way",
    "bytes_sent",
    "make_plan",
    "role_of",
    "share_out",
    "sketch_pays",
    "slices",
    "telling",
]
