"""fastrank: the exact numerical rank of every weight matrix, at every training step.

SGD             drop-in replacement for torch.optim.SGD
RankTracker     records ranks and norms at every step of any optimizer
prepare         compiles the kernels that a tracker will launch, and waits until they are compiled
linalg          rank, norms and randomised SVD of batches of matrices
Tolerance       threshold of the numerical rank
read_history    reads a history that a tracker wrote, or only some of its matrices and columns
write_history   writes a history to one file
"""

from . import linalg
from .history import HistoryError, HistoryWarning, read_history, write_history
from .metrics import RankBounds, Status, Tolerance
from .optim import SGD
from .tracking import RankTracker, prepare

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "HistoryError",
    "HistoryWarning",
    "RankBounds",
    "RankTracker",
    "Status",
    "Tolerance",
    "__version__",
    "linalg",
    "prepare",
    "read_history",
    "write_history",
]
