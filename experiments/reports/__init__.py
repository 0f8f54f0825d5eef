"""What came out of a sweep, for people to read: figures, tables and pages.

`write_report` makes the report of one sweep, `write_comparison` a page on several, and `draw_heat_map` the picture of
one trial that sinks show.
"""

from .compare import write_comparison
from .live_heat_map import draw_heat_map
from .report import write_report

__all__ = [
    "draw_heat_map",
    "write_comparison",
    "write_report",
]
