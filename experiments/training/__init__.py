"""Training of trials, one alone or a stack of perceptrons as one program, with the rank of every matrix recorded.

A `Job` holds the trials for one worker, the function named by `RUN` trains them, and `Event`s tell the driver what
happens. An interrupted job goes on from its checkpoint, to the same bits. `cost` measures a job by a short run.
"""

from .build import build_network
from .checkpoint import save_checkpoint
from .events import Crashed, EpochEnd, Event, Finished, JobCost, Warned
from .job import RUN, Job, RunJob, narrated, trainee

__all__ = [
    "RUN",
    "Crashed",
    "EpochEnd",
    "Event",
    "Finished",
    "Job",
    "JobCost",
    "RunJob",
    "Warned",
    "build_network",
    "cost",
    "narrated",
    "save_checkpoint",
    "trainee",
]
