"""Tracking: which matrices a model has, after which steps they are measured, and how on each kind of device."""

from .ahead import prepare
from .tracker import RankTracker

__all__ = [
    "RankTracker",
    "prepare",
]
