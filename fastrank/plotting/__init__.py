"""Pictures of a history: `plot` draws it with matplotlib; heat maps, curves and summaries in characters need nothing.

What draws with matplotlib is in the room `figures` in here.
"""

from .depths import check_picture, draw_depths
from .draw import Kind, plot
from .summary import Standing, rank_of, summary_html, summary_text
from .text import DIGITS, NOTHING, SHADES, evenly, fit, heat_row, printable, shorten, sparkline

__all__ = [
    "DIGITS",
    "NOTHING",
    "SHADES",
    "Kind",
    "Standing",
    "check_picture",
    "draw_depths",
    "evenly",
    "fit",
    "heat_row",
    "plot",
    "printable",
    "rank_of",
    "shorten",
    "sparkline",
    "summary_html",
    "summary_text",
]
