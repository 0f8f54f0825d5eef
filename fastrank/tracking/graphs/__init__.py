"""Graphs: a tracker in compiled steps. `operator` registers what graphs call, and `in_graph` does it."""

from .in_graph import InGraph

__all__ = ["InGraph"]
