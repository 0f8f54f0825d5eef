"""What draws a history with matplotlib: the pictures of `fastrank.plot`, and what figures of sweeps share with them.

This room alone imports matplotlib, pandas and pyarrow as it is imported; nothing imports it before a picture is drawn.
"""

from .average import HEIGHT as AVERAGE_HEIGHT
from .average import average_values
from .depth import SUFFIXES, depth_figure, save_depths
from .digest import (
    BINS,
    MATRIX_BINS,
    Digest,
    FloatArray,
    binned,
    bounds,
    columns,
    digest,
    rank_columns,
    ranks,
)
from .heat_map import cells, colour_bar, draw_cells, grey, heat_map, share
from .picture import Picture, draw_history, draw_over_steps
from .source import Source
from .spectra import spectra, spectra_caption, spectra_figure, spectrum_values
from .style import (
    ALERT,
    INK,
    MUTED,
    NEUTRAL,
    SMALL,
    STYLE,
    WIDTH,
    columns_of,
    label_ends,
    panel_grid,
    reference_line,
    spread,
    styled,
)

__all__ = [
    "ALERT",
    "AVERAGE_HEIGHT",
    "BINS",
    "INK",
    "MATRIX_BINS",
    "MUTED",
    "NEUTRAL",
    "SMALL",
    "STYLE",
    "SUFFIXES",
    "WIDTH",
    "Digest",
    "FloatArray",
    "Picture",
    "Source",
    "average_values",
    "binned",
    "bounds",
    "cells",
    "colour_bar",
    "columns",
    "columns_of",
    "depth_figure",
    "digest",
    "draw_cells",
    "draw_history",
    "draw_over_steps",
    "grey",
    "heat_map",
    "label_ends",
    "panel_grid",
    "rank_columns",
    "ranks",
    "reference_line",
    "save_depths",
    "share",
    "spectra",
    "spectra_caption",
    "spectra_figure",
    "spectrum_values",
    "spread",
    "styled",
]
