"""The share of open brackets: it sees what is open, what falls back, what is counted twice, and a lie."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
import brackets

from fastrank import RankBounds, linalg
from fastrank.counting import ragged, unpivoted

CPU = torch.device("cpu")


def test_usual_matrices_are_certified():
    t = brackets.tally(100, 10, CPU)
    assert t == brackets.Tally(10)


@pytest.mark.parametrize(("widening", "growth", "kind"), [(0.3, 32.0, "open"), (0.0, 0.1, "fallback")])
def test_what_is_open_and_what_falls_back_is_told_apart(widening, growth, kind, monkeypatch):
    """Where delta is wide, and where no growth is allowed for."""
    monkeypatch.setattr(ragged, "unpivoted", lambda order: unpivoted(order)._replace(widening=widening, growth=growth))
    t = brackets.tally(70, 5, CPU)
    assert t.wrong == 0
    assert getattr(t, kind) == t.open + t.fallback >= 3


def test_a_second_count_is_seen_and_mends(monkeypatch):
    monkeypatch.setattr(ragged, "unpivoted", lambda order: unpivoted(order)._replace(widening=0.0, growth=1.0))
    once = brackets.tally(70, 5, CPU)
    monkeypatch.setattr(brackets, "ABOVE", 64)
    twice = brackets.tally(70, 5, CPU)
    assert (once.again, twice.wrong) == (0, 0)
    assert twice.again == once.fallback > 0
    assert twice.fallback < once.fallback


def test_a_false_bound_is_seen(monkeypatch):
    lie = RankBounds(*(torch.tensor([x]) for x in (3, 3, 0)))
    monkeypatch.setattr(linalg, "rank_bounds", lambda *_, **__: lie)
    assert brackets.tally(20, 5, CPU).wrong == 5
