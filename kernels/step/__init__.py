"""SGD's step of all parameters at once, and of tracked matrices together with their sketches."""

from .sgd import Kind, sgd_, sgd_variant, tiles_of
from .sgd_sketch import sgd_sketch_, sgd_sketch_variant

__all__ = [
    "Kind",
    "sgd_",
    "sgd_sketch_",
    "sgd_sketch_variant",
    "sgd_variant",
    "tiles_of",
]
