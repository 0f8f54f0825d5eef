"""fastrank: the exact numerical rank of every weight matrix, at every training step.

SGD             drop-in replacement for torch.optim.SGD
RankTracker     records ranks and norms at every step of any optimizer
prepare         compiles the kernels that a tracker will launch, and waits until they are compiled
products        what a model has no parameter for: LoRA's and attention heads' products
difference      the weights of a model less those of another, or of another time
linalg          rank, norms and randomised SVD of batches of matrices
Tolerance       threshold of the numerical rank
read_history    reads a history that a tracker wrote, or only some of its matrices and columns
write_history   writes a history to one file
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import linalg, products
    from .history import HistoryError, HistoryWarning, read_history, write_history
    from .metrics import RankBounds, Status, Tolerance
    from .optim import SGD
    from .products import difference
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
    "difference",
    "linalg",
    "prepare",
    "products",
    "read_history",
    "write_history",
]

_ROOMS = {
    "history": ("HistoryError", "HistoryWarning", "read_history", "write_history"),
    "linalg": ("linalg",),
    "metrics": ("RankBounds", "Status", "Tolerance"),
    "optim": ("SGD",),
    "products": ("difference", "products"),
    "tracking": ("RankTracker", "prepare"),
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the command line imports this file, and can then say what it has to say, or be
    # interrupted, before PyTorch is there.
    room = next((room for room, names in _ROOMS.items() if name in names), None)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{room}", __name__)
    globals()[name] = module if name == room else getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
