"""At which line a warning is shown: at the user's, not at one in here."""

from __future__ import annotations

import sys
from types import FrameType

PASSED_BY = ("fastrank", "torch")
"""Packages between a user's loop and what warns: optimizers call a tracker, and PyTorch calls the hooks of these."""


def users_stacklevel() -> int:
    """The `stacklevel` with which `warnings.warn` shows the line outside fastrank and PyTorch that has led here.

    It is meant for a `warn` in the function that calls this one.
    """
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in PASSED_BY:
        frame, level = frame.f_back, level + 1
    return level
