"""Histories, a row for each (step, matrix): brought from the device, kept in memory, and stored in Parquet files."""

from .block import SKIPPED
from .history import History
from .parquet import HistoryError, read_history, write_history
from .parts import HistoryWarning
from .table import Layout

__all__ = [
    "SKIPPED",
    "History",
    "HistoryError",
    "HistoryWarning",
    "Layout",
    "read_history",
    "write_history",
]
