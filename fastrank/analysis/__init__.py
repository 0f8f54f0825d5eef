"""Analysis: ranks and spectra of the matrices of a model, a state dict or anybody's checkpoint, measured once.

table        `analyze`, which measures them and makes a table
model        the matrices of a model, as its layers see them
checkpoint   those of a state dict or a file, without the code of the model
matrices     what either gives: matrices by name, and what is left out
files        what a file holds
archives     what is checked of a zip archive before it is read
errors       the error of all of these
parts        the files that together hold one model, in a folder or by their index
groups       where in it the weights are, and what stands beside them
layers       what names and shapes tell: which weight a layer uses, and as which matrices
"""

from .checkpoint import REPEATED
from .errors import AnalyzeError
from .files import missing, read_file
from .groups import Chosen, choose
from .parts import read
from .table import analyze

__all__ = [
    "REPEATED",
    "AnalyzeError",
    "Chosen",
    "analyze",
    "choose",
    "missing",
    "read",
    "read_file",
]
