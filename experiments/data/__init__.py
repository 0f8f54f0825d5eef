"""Data sets: prepared once into a cache, then read from there by every trial, without any network.

A configuration takes `describe` and `split_sizes`, a trial `load_split` and `Feed`. The modules in ``__all__`` are for
the command line alone, which imports them when it prepares or lists: they need packages that nothing else does.
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
