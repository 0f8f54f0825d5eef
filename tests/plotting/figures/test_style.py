"""Labels do not overlap, and nobody's matplotlib settings change."""

import itertools

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrank.plotting.figures import panel_grid, spread, styled


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
