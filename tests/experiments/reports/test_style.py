"""Colours of settings can be told apart by lightness."""

import itertools

import pytest
from matplotlib.colors import to_rgb

from fastrank.experiments.reports.figures.style import colours, lightness


def luminance(colour: str) -> float:
    red, green, blue = to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("axis", ["lr", "weight_decay", "momentum"])
def test_stronger_is_darker_and_told_apart_by_lightness_alone(axis: str) -> None:
    ramp = colours(axis, [1e-2, 1e-3, 0.0, 2e-3, 5e-3, 0.6])  # in whatever order
    assert list(ramp) == [0.0, 1e-3, 2e-3, 5e-3, 1e-2, 0.6]
    darkening = [luminance(colour) for value, colour in ramp.items() if value]
    assert all(a - b > 0.03 for a, b in itertools.pairwise(darkening))
    red, green, blue = to_rgb(ramp[0.0])
    assert max(red, green, blue) - min(red, green, blue) < 0.1  # nothing of it: grey


def test_larger_batches_are_lighter() -> None:
    lightening = [luminance(colour) for colour in colours("batch_size", [4, 8, 16, 32, 64, 128]).values()]
    assert all(b - a > 0.03 for a, b in itertools.pairwise(lightening))


def test_lightness_is_that_of_the_eye() -> None:
    assert [lightness("black"), lightness("white")] == [0, pytest.approx(1)]
    assert lightness("#808080") == pytest.approx(0.216, abs=5e-4)  # WCAG 2's own figure, to three digits
