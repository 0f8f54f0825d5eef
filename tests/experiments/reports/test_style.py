"""Labels do not overlap, colours can be told apart by lightness, and nobody's matplotlib settings change."""

import itertools

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from fastrank.experiments.reports.figures.style import colours, lightness, panel_grid, spread, styled


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0.5, 20))
@settings(max_examples=100, deadline=None)
def test_spread_keeps_order_gap_and_limits(values: list[float], gap: float) -> None:
    positions = spread(values, gap, within=(0, 100))
    kept = min(gap, 100 / len(values))
    ordered = [positions[i] for i in sorted(range(len(values)), key=values.__getitem__)]
    assert all(b - a >= kept - 1e-9 for a, b in itertools.pairwise(ordered))
    assert ordered[0] >= kept / 2 - 1e-9
    assert ordered[-1] <= 100 - kept / 2 + 1e-9


def test_spread_moves_only_what_is_too_close() -> None:
    assert spread([80, 20, 50], gap=5, within=(0, 100)) == [80, 20, 50]
    assert spread([80, 20, 21], gap=5, within=(0, 100)) == [80, 18, 23]
    assert spread([], gap=5, within=(0, 100)) == []


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


def test_panels_beyond_the_last_are_off() -> None:
    figure, panels = panel_grid(5, 3, 2.0)
    assert len(panels) == 5
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False]


def test_style_starts_from_the_defaults_and_gives_the_users_settings_back() -> None:
    with matplotlib.rc_context({"lines.linewidth": 17.0, "xtick.minor.size": 13.0}):
        with styled():
            assert matplotlib.rcParams["lines.linewidth"] == 1.8
            assert matplotlib.rcParams["xtick.minor.size"] == matplotlib.rcParamsDefault["xtick.minor.size"]
        assert matplotlib.rcParams["lines.linewidth"] == 17.0
        with pytest.raises(RuntimeError, match="while drawing"), styled():
            raise RuntimeError("while drawing")
        assert matplotlib.rcParams["lines.linewidth"] == 17.0
