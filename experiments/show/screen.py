"""A history as lines of text that fit a terminal: a heat map, a sparkline of the average, and the last row."""

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from fastrank.plotting import DIGITS, NOTHING, SHADES, evenly, fit, heat_row, rank_of, shorten, sparkline, summary_text

from .reader import History

VIRIDIS = np.array(
    [
        *((68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140)),
        *((34, 168, 132), (68, 191, 112), (122, 209, 81), (189, 223, 38), (253, 231, 37)),
    ]
)
"""The colours of the heat maps that matplotlib draws, at every tenth."""
LEVELS = 50  # colours that are told apart
PIPE = 100, 10_000  # columns and lines where no terminal sets them


@dataclass(frozen=True)
class Screen:
    """What there is to draw on.

    Attributes:
        width, height: characters and lines.
        colours: whether cells are coloured; they are shades, or digits, where they are not.
        unicode: whether there are more characters than ASCII.
    """

    width: int
    height: int
    colours: bool
    unicode: bool

    @classmethod
    def of(cls, console: Console) -> "Screen":
        """That of a console: the terminal, or a file in its place."""
        width, height = console.size if console.is_terminal else PIPE
        colours = console.color_system in ("256", "truecolor") and not console.no_color
        return cls(width, height, colours, console.encoding.lower().startswith("utf"))

    def written(self, text: str) -> str:
        """A text in the characters that there are."""
        return text if self.unicode else text.replace("…", "~").encode("ascii", "replace").decode()


def picture(history: History, screen: Screen, note: str = "") -> Text:
    """The lines of a history, as many as fit: a row for each of its matrices, or for some, evenly chosen.

    Args:
        history: what is shown.
        screen: where it is shown.
        note: what is said last, such as what is wrong at present.
    """
    standing = history.standing
    wide = max(screen.width, 1)
    end = wrap(screen.written(summary_text(standing) + _stable(history)), wide)
    notes = wrap(screen.written(note), wide)
    # The other lines: legend, axis, average, what is left out, and the one that the cursor is on.
    room = screen.height - 5 - len(end) - len(notes)
    count = len(standing.names)
    chosen = evenly(count, max(room, 1))
    lasts = [_last(history, standing.names[row]) for row in chosen]
    right = max(map(len, [*lasts, "100%"]))
    left = min(max(len(standing.names[row]) for row in chosen), max(screen.width // 3, 8))
    width = max(screen.width - left - right - 2, 4)
    row_of = _coloured if screen.colours else _shaded(screen)
    lines = [_legend(screen, row_of)]
    for row, last in zip(chosen, lasts, strict=True):
        name = screen.written(shorten(standing.names[row], left))
        lines.append(Text(f"{name:>{left}} ") + row_of(fit(history.shares[row], width)) + Text(f" {last}"))
    first, final = f"{history.steps[0]:,}", f"{history.steps[-1]:,}"
    axis = f"{first}{final:>{width - len(first)}}" if len(first) + len(final) < width else f"{final:>{width}}"
    lines.append(Text(f"{'step':>{left}} {axis}", "dim"))
    lines.append(_average(history, screen, left, width))
    if len(chosen) < count:
        lines.append(Text(f"{count - len(chosen)} of {count} matrices are not shown: there is no room", "dim"))
    lines += [*map(Text, end), *(Text(line, "yellow") for line in notes)]
    for line in lines:
        line.truncate(screen.width)
    return Text("\n", no_wrap=True, overflow="crop").join(lines)


def _stable(history: History) -> str:
    known = [row.get("stable_rank") for row in history.standing.latest.values()]
    found = [value for value in known if value is not None and np.isfinite(value)]
    return f"; mean stable rank {np.mean(found):.1f}" if found and len(found) == len(known) else ""


def _last(history: History, name: str) -> str:
    """The rank of a matrix at the last step, of its full rank."""
    row = history.standing.latest.get(name)
    if row is None:
        return "not recorded"
    rank = rank_of(row)
    return f"{rank} of {history.standing.full(name)}" if rank[0].isdigit() else rank


def _average(history: History, screen: Screen, left: int, width: int) -> Text:
    """The mean over the matrices of their shares, from 0 to 1; a gap where one of them has no rank."""
    mean = history.shares.mean(axis=0)
    bars = sparkline(fit(mean, width), high=1.0) if screen.unicode else heat_row(fit(mean, width), DIGITS, "-")
    last = f"{mean[-1]:.0%}" if np.isfinite(mean[-1]) else ""
    return Text(f"{'average':>{left}} {bars} {last}")


def _legend(screen: Screen, row_of: Callable[[NDArray[np.float64]], Text]) -> Text:
    scale = row_of(np.linspace(0, 1, 20 if screen.colours else 10))
    none = NOTHING if screen.unicode else "-"
    return Text("rank, share of full: 0 ", "dim") + scale + Text(f" 1   {none} no rank", "dim")


def _shaded(screen: Screen) -> Callable[[NDArray[np.float64]], Text]:
    marks, nothing = (SHADES, NOTHING) if screen.unicode else (DIGITS, "-")
    return lambda shares: Text(heat_row(shares, marks, nothing))


def _coloured(shares: NDArray[np.float64]) -> Text:
    """Cells whose background is a colour; neighbours of one colour are one span."""
    text = Text()
    known = np.isfinite(shares)
    levels = np.where(known, np.round(np.clip(np.where(known, shares, 0), 0, 1) * LEVELS), -1).astype(int)
    starts = np.flatnonzero(np.diff(levels, prepend=-2))
    for start, stop in zip(starts, [*starts[1:], len(levels)], strict=True):
        share = levels[start] / LEVELS
        text.append(*(" " * (stop - start), _style(share)) if share >= 0 else (NOTHING * (stop - start), "dim"))
    return text


def _style(share: float) -> str:
    tenths = np.arange(len(VIRIDIS)) / (len(VIRIDIS) - 1)
    red, green, blue = (round(float(np.interp(share, tenths, VIRIDIS[:, i]))) for i in range(3))
    return f"on rgb({red},{green},{blue})"
