"""Types of this folder: a data set's description, the images of a part, and the error for an unusable data set."""

from dataclasses import dataclass

from torch import Tensor

from ..errors import UserError


class DataError(UserError):
    """A data set that is missing, damaged or unfit. The message names the set, the row or the key, and the remedy."""


@dataclass(frozen=True)
class DataInfo:
    """A data set as its header describes it.

    Attributes:
        name: what a configuration calls it.
        source: where it came from: a folder, or a data set of the hub.
        digest: SHA-256, in hex, of the pixels, the labels, the class names and the statistics.
        classes: names of the classes; a label is an index into them.
        channels, height, width: of every image.
        train, test: examples; ``test`` is 0 where the set has no test part.
        mean, std: of the training part's pixels divided by 255, one value a channel; of all images where the set has
            no test part, before one is set aside.
        options: of the command line, with which it was prepared.
    """

    name: str
    source: str
    digest: str
    classes: tuple[str, ...]
    channels: int
    height: int
    width: int
    train: int
    test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """Images ``x``, (n, c, h, w) uint8, and labels ``y``, (n,) int64. Callers share them: they must not be changed."""

    x: Tensor
    y: Tensor
