"""Data sets: prepared once into a checked cache, then read by name, with no network and no decoding."""

from fastrank.experiments.data.info import DataError, DataInfo, Images
from fastrank.experiments.data.splits import describe, load_split, split_sizes

__all__ = ["DataError", "DataInfo", "Images", "describe", "load_split", "split_sizes"]
