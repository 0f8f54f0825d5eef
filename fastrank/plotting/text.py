"""Pictures made of characters, for terminals and for the reprs of trackers: heat maps and sparklines."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SHADES = " ░▒▓█"
DIGITS = "0123456789"
BARS = "▁▂▃▄▅▆▇█"
NOTHING = "·"
"""Stands for a value that does not exist: the matrix was not finite, or was not measured."""


def heat_row(shares: ArrayLike, marks: str = SHADES, nothing: str = NOTHING) -> str:
    """A row of a heat map: a character a value.

    Args:
        shares: (n,), from 0 to 1; NaN where there is none.
        marks: characters for equal parts of that range, from 0 up (default: shades; also `DIGITS` and `BARS`).
        nothing: the character for NaN.
    """
    values = np.asarray(shares, dtype=np.float64)
    known = np.isfinite(values)
    places = np.clip(np.where(known, values, 0.0) * len(marks), 0, len(marks) - 1).astype(int)
    return "".join(marks[place] if there else nothing for place, there in zip(places, known, strict=True))


def sparkline(values: ArrayLike, *, high: float | None = None, low: float = 0.0) -> str:
    """A curve in one line of text, a character a value.

    Args:
        values: (n,); NaN, or None, where there is none.
        high: what the highest bar stands for (default: the largest value).
        low: what the lowest bar stands for.
    """
    found = np.asarray(values, dtype=np.float64)
    known = found[np.isfinite(found)]
    top = high if high is not None else float(known.max()) if len(known) else 1.0
    return heat_row((found - low) / (top - low if top > low else 1.0), BARS)


def fit(values: ArrayLike, width: int) -> NDArray[np.float64]:
    """Bring the last axis of `values` to a length: means over runs of equally many where it is longer, repeated if not.

    Args:
        values: (..., n) with n at least 1; NaN is passed over, and is the mean where all of a run is NaN.
        width: the new length, at least 1.
    """
    given = np.asarray(values, dtype=np.float64)
    count = given.shape[-1]
    if count <= width:
        return given[..., np.arange(width) * count // width]
    starts = np.arange(width) * count // width
    known = np.isfinite(given)
    total = np.add.reduceat(np.where(known, given, 0.0), starts, axis=-1)
    finite = np.add.reduceat(known.astype(np.float64), starts, axis=-1)
    return np.divide(total, finite, out=np.full_like(total, np.nan), where=finite > 0)


def shorten(name: str, width: int) -> str:
    """The end of a name, after an ellipsis where it is longer than `width` characters."""
    name = printable(name)
    return name if len(name) <= width else f"…{name[len(name) - width + 1 :]}" if width > 1 else "…"[:width]


def printable(text: str) -> str:
    """A text that says nothing to a terminal and ends no line: characters that do not print are written as escapes.

    Names of matrices come from files, and such a file may be anybody's.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def evenly(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` things, evenly spaced, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))
