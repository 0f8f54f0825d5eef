"""Pictures of characters say what the numbers say."""

import numpy as np

from fastrank.plotting import DIGITS, evenly, fit, heat_row, shorten, sparkline


def test_a_row_has_a_mark_for_each_fifth_and_none_for_nan():
    assert heat_row([0, 0.19, 0.2, 0.5, 0.79, 0.8, 1]) == "  ░▒▓██"
    assert heat_row([0.05, 0.55, 1, float("nan")], DIGITS, "-") == "059-"
    assert heat_row([-0.1, 1.1]) == " █"


def test_a_sparkline_spans_zero_to_the_largest_or_what_it_is_told():
    assert sparkline([0, 1, 2, 4]) == "▁▃▅█"
    assert sparkline([0, 1, 2, 4], high=8) == "▁▂▃▅"
    assert sparkline([None, 3, np.nan, 3]) == "·█·█"
    assert sparkline([]) == ""
    assert sparkline([np.nan]) == "·"
    assert sparkline([0, 0]) == "▁▁"


def test_what_is_too_long_becomes_means_of_equal_runs():
    np.testing.assert_array_equal(fit([1, 3, 5, 7], 2), [2, 6])
    np.testing.assert_array_equal(fit([[1, 3, 5, np.nan], [np.nan, np.nan, 1, 1]], 2), [[2, 5], [np.nan, 1]])
    values = np.random.default_rng(0).random(1000)
    shrunk = fit(values, 77)
    assert shrunk.shape == (77,)
    assert [shrunk.min() >= values.min(), shrunk.max() <= values.max()] == [True, True]


def test_what_is_too_short_is_repeated_in_order():
    np.testing.assert_array_equal(fit([1, 2], 5), [1, 1, 1, 2, 2])
    np.testing.assert_array_equal(fit([4], 3), [4, 4, 4])


def test_names_keep_their_end():
    assert shorten("layer4.1.conv2", 20) == "layer4.1.conv2"
    assert shorten("layer4.1.conv2", 6) == "…conv2"
    assert [shorten("abc", 1), shorten("abc", 0)] == ["…", ""]


def test_evenly_keeps_both_ends():
    assert evenly(6, 3) == [0, 2, 5]
    assert evenly(60, 24)[:2] + evenly(60, 24)[-2:] == [0, 3, 56, 59]
    assert [evenly(count, 4) for count in (1, 3, 4)] == [[0], [0, 1, 2], [0, 1, 2, 3]]
