"""What came out of a sweep, for people to read: figures, tables and pages.

`write_report` makes the report of one sweep, `write_history_report` that of one tracker's folder, and
`write_any_report` the one that a folder asks for; `write_comparison` makes a page on several sweeps, and
`draw_heat_map` the picture of one trial that sinks show.
"""

from .compare import write_comparison
from .history_report import write_any_report, write_history_report
from .live_heat_map import draw_heat_map
from .report import write_report

__all__ = [
    "draw_heat_map",
    "write_any_report",
    "write_comparison",
    "write_history_report",
    "write_report",
]
