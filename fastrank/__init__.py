"""fastrank: the exact numerical rank of every weight matrix, at every training step.

SGD             drop-in replacement for torch.optim.SGD
RankTracker     records ranks and norms at every step of any optimizer
analyze         measures a model, a state dict or a checkpoint once, and returns a table
factorize       replaces the matrices of a checkpoint by factors of low rank, each with a proven error
load_factorized puts such factors into a model
prepare         compiles the kernels that a tracker will launch, and waits until they are compiled
schedules       rules for after which steps to measure, where a number is too plain
products        what a model has no parameter for: LoRA's and attention heads' products
difference      the weights of a model less those of another, or of another time
linalg          rank, norms and randomised SVD of batches of matrices
Tolerance       threshold of the numerical rank
plot            draws a history with matplotlib
read_history    reads a history that a tracker wrote, or only some of its matrices and columns
write_history   writes a history to one file
sinks           send numbers to TensorBoard, W&B, MLflow and trackio
alerts          rules that call, stop or warn when a rank falls
lightning       RankCallback for Lightning's Trainer, if that is installed
transformers    RankCallback for Hugging Face's Trainer, if that is installed
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import alerts, linalg, products, schedules, sinks
    from . import lightning as lightning
    from . import transformers as transformers
    from .alerts import AlertWarning
    from .analysis import AnalyzeError, analyze
    from .factors import factorize, load_factorized
    from .history import HistoryError, HistoryWarning, read_history, write_history
    from .metrics import RankBounds, Status, Tolerance
    from .optim import SGD
    from .plotting import plot
    from .products import difference
    from .tracking import RankTracker, prepare

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AlertWarning",
    "AnalyzeError",
    "HistoryError",
    "HistoryWarning",
    "RankBounds",
    "RankTracker",
    "Status",
    "Tolerance",
    "__version__",
    "alerts",
    "analyze",
    "difference",
    "factorize",
    "linalg",
    "load_factorized",
    "plot",
    "prepare",
    "products",
    "read_history",
    "schedules",
    "sinks",
    "write_history",
]

_ROOMS = {
    "alerts": ("AlertWarning", "alerts"),
    "analysis": ("AnalyzeError", "analyze"),
    "factors": ("factorize", "load_factorized"),
    "history": ("HistoryError", "HistoryWarning", "read_history", "write_history"),
    "linalg": ("linalg",),
    "metrics": ("RankBounds", "Status", "Tolerance"),
    "optim": ("SGD",),
    "plotting": ("plot",),
    "products": ("difference", "products"),
    "schedules": ("schedules",),
    "sinks": ("sinks",),
    "tracking": ("RankTracker", "prepare"),
    # Not in `__all__`: whoever asks for all names shall not import trainers, which takes seconds.
    "lightning": ("lightning",),
    "transformers": ("transformers",),
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
