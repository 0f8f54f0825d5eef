"""Sinks: where the numbers of a training are sent, beside its history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["open_sinks"]


def open_sinks(specs: Sequence[Any]) -> list[Any]:
    """The sinks that `specs` name."""
    return list(specs)
