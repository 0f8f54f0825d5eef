"""Fixtures of the tests of SGD's step."""

from __future__ import annotations

import pytest

from fastrank.optim.descent import Descent


@pytest.fixture
def refreshed(monkeypatch):
    """The optimizers' descents, once for each step that looks at everything."""
    seen, stock = [], Descent.refresh
    monkeypatch.setattr(Descent, "refresh", lambda self, *given: (seen.append(self), stock(self, *given))[1])
    return seen
