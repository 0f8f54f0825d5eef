"""Ending: has a history closed in time, however the process ends."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.util import Finalize

import torch

from ..device import capturing


def close_at_last(owner: object, device: torch.device, close: Callable[[], None], warn: Callable[[str], None]) -> None:
    """Have `close` called when `owner` is collected, or at the latest when the process ends.

    `multiprocessing` does so where `atexit` and `weakref.finalize` do not, at the end of the processes that it has
    started; and it does not in a forked process, to which the history of its parent does not belong.

    Args:
        device: which `close` asks for rows. While work for it is captured in a CUDA graph it cannot be asked: `close`
            is then called at the end of the process.
        warn: called with what `close` has raised.
    """

    def end() -> None:
        try:
            if capturing(device):
                Finalize(None, end, exitpriority=0)
            else:
                close()
        except Exception as error:  # whatever is left of the process at its end
            warn(f"not written ({error}); its rows are lost")

    Finalize(owner, end, exitpriority=0)
