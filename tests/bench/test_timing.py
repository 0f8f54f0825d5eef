"""Rounds, buffers, percentiles and memory."""

import pytest
import timing
from timing import Spread


def test_spread():
    assert Spread.of([5.0]) == (5.0, 5.0, 5.0)
    assert Spread.of([float(i) for i in range(11)]) == (5.0, 2.0, 8.0)
    # A machine that was slower in the second visit: the median is of all rounds, the spread covers both visits.
    assert Spread.of([1.0] * 9, [float(i) for i in range(10, 21)]) == (10.5, 1.0, 18.0)
    assert Spread.of([3.0], [1.0], [2.0]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("seconds", "rounds", "calls"),
    [(3e-6, 200, 334), (1e-4, 200, 10), (0.01, 100, 1), (0.3, 5, 1), (2.0, 1, 1)],
)
def test_plan(seconds, rounds, calls):
    assert timing.plan(seconds, budget=1.0) == (rounds, calls)


def test_buffers_together_exceed_the_caches():
    for size in (1, 10**6, 10**8, 10**10):
        count = timing.buffer_count(size)
        assert 2 <= count <= timing.MOST_BUFFERS
        assert count * size >= timing.CACHE or count == timing.MOST_BUFFERS
