"""Where the values of a setting lie on an axis: on a logarithm or evenly, with zero, which has none, set apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from fastrank.plotting.figures import NEUTRAL

from ..axes import WORDS, number

GAP = 0.5  # how much farther zero is from the smallest value than two values are on average, as a share of that
LETTER = 0.075  # inches, of a tick label
LONG = 5  # letters of the longest number that is written out; beyond, all numbers of the axis are like 2e-4


@dataclass(frozen=True)
class Scale:
    """Positions of `values` (increasing) of the setting `axis`; `even` puts them one apart, whatever they are."""

    axis: str
    values: tuple[float, ...]
    even: bool = False

    @property
    def zero(self) -> bool:
        """Whether zero, which has no logarithm, is among the values and others are too."""
        return self.values[0] == 0 and len(self.values) > 1 and self.axis != "momentum"

    @property
    def logarithmic(self) -> bool:
        """Whether distances are ratios."""
        return not self.even and self.axis != "momentum" and any(value > 0 for value in self.values)

    @property
    def label(self) -> str:
        """The name of the axis, as it is written at it."""
        return WORDS[self.axis] + (" (log scale)" if self.logarithmic else "")

    def positions(self) -> dict[float, float]:
        """The place of every value."""
        regular = self.values[1:] if self.zero else self.values
        places = np.log10(regular) if self.logarithmic and regular[0] > 0 else np.arange(float(len(regular)))
        step = float(places[-1] - places[0]) / (len(places) - 1) if len(places) > 1 else 1.0
        at_zero = {0.0: float(places[0]) - (1 + GAP) * step} if self.zero else {}
        return at_zero | dict(zip(regular, map(float, places), strict=True))

    def edges(self) -> dict[float, tuple[float, float]]:
        """From where to where the cell of every value reaches, which is half way to its neighbours."""
        places = self.positions()
        at_zero = places.pop(0.0) if self.zero else None
        middle = np.array(list(places.values()))
        step = (middle[-1] - middle[0]) / (len(middle) - 1) if len(middle) > 1 else 1.0
        inner = (middle[1:] + middle[:-1]) / 2
        # The outer cells are no wider than the mean one: they have but one neighbour, which may be far away.
        low = min(inner[0] - middle[0], step / 2) if len(inner) else step / 2
        high = min(middle[-1] - inner[-1], step / 2) if len(inner) else step / 2
        limits = [middle[0] - low, *inner, middle[-1] + high]
        cells = {value: (limits[i], limits[i + 1]) for i, value in enumerate(places)}
        if at_zero is not None:
            cells[0.0] = (at_zero - step / 2, at_zero + step / 2)
        return cells

    def draw_x(self, axes: Axes, inches: float) -> None:
        """Draw ticks and name of a horizontal axis, `inches` long. Labels that would overlap are left out."""
        places = list(self.positions().values())
        labels = tick_labels(self.values)
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FixedFormatter(thinned(labels, [p * inches / (high - low) for p in places])))
        axes.set_xlabel(self.label)

    def draw_y(self, axes: Axes) -> None:
        """Draw ticks and name of a vertical axis."""
        axes.yaxis.set_major_locator(FixedLocator(list(self.positions().values())))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FixedFormatter(tick_labels(self.values)))
        axes.set_ylabel(self.label)

    def draw_gap(self, axes: Axes) -> None:
        """Draw a dotted line between zero and the other values, where there is a zero."""
        if self.zero:
            edges = self.edges()
            middle = (edges[0.0][1] + edges[self.values[1]][0]) / 2
            axes.axvline(middle, color=NEUTRAL, linewidth=0.8, linestyle=(0, (1, 3)), zorder=1)


def thinned(labels: Sequence[str], places: Sequence[float]) -> list[str]:
    """The labels, centred at these places (inches, increasing), with those that would touch a kept one emptied.

    The first and the last are kept before all others, and then powers of ten before the rest.
    """
    reach = [LETTER * (len(label) + 0.7) / 2 for label in labels]
    last = len(labels) - 1
    kept: list[int] = []
    for i in sorted(range(len(labels)), key=lambda i: (i not in (0, last), not _round(labels[i]))):
        if all(abs(places[i] - places[j]) >= reach[i] + reach[j] for j in kept):
            kept.append(i)
    return [label if i in kept else "" for i, label in enumerate(labels)]


def _round(label: str) -> bool:
    """Whether it is a power of ten."""
    return f"{float(label):e}".startswith("1.000000e")


def tick_labels(values: Sequence[float]) -> list[str]:
    """The values as an axis shows them: all like 0.005, or all like 5e-3 where one of them is long; zero is 0."""
    plain = [number(value) for value in values]
    if max(map(len, plain)) <= LONG or any(value >= 1 for value in values):
        return plain
    return ["0" if value == 0 else _scientific(value) for value in values]


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
