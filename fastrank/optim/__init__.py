"""`fastrank.SGD`, and its step where kernels serve a device."""

from .descent import Descent
from .sgd import SGD, Companion

__all__ = [
    "SGD",
    "Companion",
    "Descent",
]
