"""What a sweep keeps, and where: the paths in its folder, the ledger of its trials, and storage elsewhere.

The driver writes the `Ledger`; everybody reads it. `Layout` names the files of a sweep's folder. `Storage` is how the
driver and the reports see histories and checkpoints that are kept elsewhere, `Place` how workers write them there.
"""

from .layout import Layout, history_parts
from .ledger import MAX_ATTEMPTS, Ledger, Status, TrialRecord
from .storage import Place, Storage, absolute, check_scheme

__all__ = [
    "MAX_ATTEMPTS",
    "Layout",
    "Ledger",
    "Place",
    "Status",
    "Storage",
    "TrialRecord",
    "absolute",
    "check_scheme",
    "history_parts",
]
