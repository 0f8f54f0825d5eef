"""Pictures of a history: `plot` draws it with matplotlib; heat maps, curves and summaries in characters need nothing.

What draws with matplotlib is in the room `figures` in here.
"""

from .draw import plot
from .summary import Standing, rank_of, summary_html, summary_text
from .text import DIGITS, NOTHING, SHADES, evenly, fit, heat_row, shorten, sparkline

__all__ = [
    "DIGITS",
    "NOTHING",
    "SHADES",
    "Standing",
    "evenly",
    "fit",
    "heat_row",
    "plot",
    "rank_of",
    "shorten",
    "sparkline",
    "summary_html",
    "summary_text",
]
