"""What came out of a sweep: tables, figures and pages."""

from .compare import write_comparison
from .live_heat_map import draw_heat_map
from .report import write_report

__all__ = [
    "draw_heat_map",
    "write_comparison",
    "write_report",
]
