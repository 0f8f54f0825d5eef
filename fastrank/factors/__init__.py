"""Factors: thin matrices U and V in the place of a weight W ~ U V, with a proven error, where they save parameters.

table        `factorize`, which replaces the matrices of a checkpoint, and returns a table of what came of each
candidates   which tensors of a checkpoint are weights that a linear layer or a convolution would take as factors
rank         of which rank the factors of a matrix have to be
factor       the factors of one matrix, as they are stored, and their proven error
file         the file of all that: safetensors, written tensor by tensor
loading      `load_factorized`, which puts the factors into a model
layers       two layers in sequence, in the place of one
"""

from .loading import load_factorized
from .table import factorize

__all__ = [
    "factorize",
    "load_factorized",
]
