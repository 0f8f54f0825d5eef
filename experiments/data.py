"""Data sets, by name: tensors in memory, scaled by fixed constants, split once and for all."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Mean and standard deviation of all pixels of the 1,797 images, which lie between 0 and 16.
DIGITS_MEAN, DIGITS_STD = 4.884, 6.017


@dataclass(frozen=True)
class Split:
    """``x``: (examples, features) float32; ``y``: (examples,) int64."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class DataSet:
    """A data set's sizes, known without loading it, and how to load it: ``load() -> (x, y)``, unsplit."""

    examples: int
    features: int
    classes: int
    load: Callable[[], tuple[NDArray[np.float32], NDArray[np.int64]]]

    def train_size(self, test_fraction: float) -> int:
        """Examples left for training; the test part is rounded up."""
        return self.examples - math.ceil(self.examples * test_fraction)


def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return ((pixels - DIGITS_MEAN) / DIGITS_STD).astype(np.float32), labels.astype(np.int64)


DATASETS: dict[str, DataSet] = {
    "digits": DataSet(examples=1797, features=64, classes=10, load=_digits),
}


@lru_cache(maxsize=2)  # a worker runs many trials, nearly always on the same data
def load_split(name: str, test_fraction: float, seed: int) -> tuple[Split, Split]:
    """The training and the test part of a data set, stratified by class.

    ``seed`` decides the split alone. The tensors are shared between callers: they must not be written to.
    """
    from sklearn.model_selection import train_test_split

    data = DATASETS[name]
    x, y = data.load()
    train, test = train_test_split(
        np.arange(len(y)), test_size=len(y) - data.train_size(test_fraction), random_state=seed, stratify=y
    )
    return _split(x, y, train), _split(x, y, test)


def _split(x: NDArray[np.float32], y: NDArray[np.int64], rows: NDArray[np.intp]) -> Split:
    return Split(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
