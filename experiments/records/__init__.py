"""What a sweep's folder keeps: paths, the ledger of its trials, and copies of it elsewhere."""

from .layout import Layout, history_parts
from .ledger import MAX_ATTEMPTS, Ledger, Status, TrialRecord
from .storage import Place, Storage, absolute

__all__ = [
    "MAX_ATTEMPTS",
    "Layout",
    "Ledger",
    "Place",
    "Status",
    "Storage",
    "TrialRecord",
    "absolute",
    "history_parts",
]
