"""Training trials, one at a time or many perceptrons as one program; each resumable to the bit."""

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
