"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: built in, since they are installed with it."""

import numpy as np
import torch

from .folder import BUILT_IN
from .info import DataInfo, Images

# Mean and standard deviation of all pixels of the 1,797 images, which lie between 0 and 16.
MEAN, STD = 4.884, 6.017

INFO = DataInfo(
    name=BUILT_IN,
    source="scikit-learn",
    digest="d4ac12cb14d1eb72478d62e505f8926ab60f939c0504a198d50d6cceb1c1197a",
    classes=tuple(str(digit) for digit in range(10)),
    channels=1,
    height=8,
    width=8,
    train=1797,
    test=0,
    mean=(MEAN / 255,),
    std=(STD / 255,),
)


def load() -> Images:
    """All digits; their pixels are whole numbers from 0 to 16."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels.astype(np.uint8)).view(-1, 1, 8, 8)
    return Images(x, torch.from_numpy(labels.astype(np.int64)))
