"""What the figures of a sweep share besides the look of all figures: a ramp of colours for each setting, and an axis of
accuracies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.ticker import MaxNLocator

from fastrank.plotting.figures import NEUTRAL

# Colour map, and the part of it that is used, from its dark end on. Batch sizes alone are dark where they are small.
RAMPS = {
    "batch_size": ("viridis", 0.05, 0.74),
    "lr": ("BuPu", 1.0, 0.52),
    "weight_decay": ("YlOrRd", 0.98, 0.5),
    "momentum": ("YlGn", 1.0, 0.52),
}


def colours(axis: str, values: Sequence[float]) -> dict[float, str]:
    """Colour of every value of a setting. Each setting has a ramp of its own, whose colours differ in lightness.

    Weight decay goes from light orange to dark red, batch size from dark blue to light green, the learning rate from
    light to dark violet, momentum from light to dark green. Zero is grey.
    """
    positive = sorted(value for value in values if value > 0)
    ramp = _ramp(*RAMPS[axis], len(positive))
    named = zip(positive, ramp if axis == "batch_size" else ramp[::-1], strict=True)
    return dict.fromkeys(sorted(values), NEUTRAL) | dict(named)


def _ramp(name: str, start: float, stop: float, count: int) -> list[str]:
    return [to_hex(colour) for colour in colormaps[name](np.linspace(start, stop, count))]


def lightness(colour: Any) -> float:
    """Relative luminance of a colour (WCAG 2), 0 (black) to 1 (white)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def accuracy_axis(axes: Axes, accuracies: pd.Series) -> None:
    """Make the vertical axis one of per cents that ends at 100 and shows all of `accuracies`."""
    room = max(1 - accuracies.min(), 0.02)
    axes.set_ylim(max(0, 1 - 1.15 * room), 1 + 0.06 * room)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")
