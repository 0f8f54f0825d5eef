"""`fastrank.SGD`, and its step by the kernels on devices that they serve."""

from .descent import Descent
from .sgd import SGD, Companion

__all__ = [
    "SGD",
    "Companion",
    "Descent",
]
