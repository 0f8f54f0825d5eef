"""Data sets: prepared once, then read by every trial without a network, and fed to it in batches.

The modules named here bring packages that only preparing takes.
"""

from .feed import Feed
from .info import DataError, DataInfo
from .splits import describe, load_split, split_sizes

__all__ = [
    "DataError",
    "DataInfo",
    "Feed",
    "decode",
    "describe",
    "listing",
    "load_split",
    "prepare",
    "source",
    "split_sizes",
]
