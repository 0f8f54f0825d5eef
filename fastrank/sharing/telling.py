"""Telling: what the ranks tell each other with the rows of each step, which step that is, and whether to stop."""

from __future__ import annotations

import torch
from torch import Tensor

from ..device import mark, to_host
from .ranks import Ranks

LAG = 16
"""Measurements after which the host looks at what the ranks have told each other, on CUDA."""


class Telling:
    """What a rank tells the others, and hears from them, once a measurement.

    Args:
        ranks: the processes.
        device: where the rows are.

    Attributes:
        size: of what all of them tell together.
        step: the number of the step that this rank measures; set it before.
        wants_stop: set it to have all ranks stop training. should_stop: whether any has asked for that, which all of
            them see after the same measurement: the next one on a CPU, and the `LAG`th one on CUDA.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self.size = ranks.size + 1
        self.step = 0
        self.wants_stop = self.should_stop = False
        self._ranks, self._device = ranks, device
        self._sent: list[tuple[Tensor, torch.cuda.Event | None]] = []

    def say(self, told: Tensor) -> None:
        """Write what this rank tells into `(size,)` zeros, which are then added up over all ranks."""
        told[self._ranks.rank], told[-1] = self.step, float(self.wants_stop)

    def hear(self, told: Tensor) -> Tensor:
        """Hear what all ranks have told, the sum.

        On CUDA the host does not wait, and looks at what is long there. All ranks look at the same then.

        Returns:
            Whether they have measured different steps, 0-d bool: what comes of that has no numbers.

        Raises:
            RuntimeError: they have, as the host sees.
        """
        if self._device.type == "cpu":
            self._compare(told)
        else:
            self._sent.append((to_host(told), mark(self._device)))
            if len(self._sent) > LAG:
                self._hear_late(*self._sent.pop(0))
        return (told[:-1] != told[0]).any()

    def hear_all(self) -> None:
        """Hear what the host has not looked at yet. Raises as `hear`."""
        while self._sent:
            self._hear_late(*self._sent.pop(0))

    def forget(self) -> None:
        """Hear no more of what was told."""
        self._sent.clear()

    def _hear_late(self, told: Tensor, event: torch.cuda.Event | None) -> None:
        if event is not None:
            event.synchronize()
        self._compare(told)

    def _compare(self, told: Tensor) -> None:
        *steps, stops = told.tolist()
        self.should_stop |= stops > 0
        other = next((rank for rank, step in enumerate(steps) if step != steps[0]), None)
        if other is not None:
            raise RuntimeError(
                f"{self._ranks.name(0)} has measured step {steps[0]:.0f} and {self._ranks.name(other)} step "
                f"{steps[other]:.0f}: the trackers of all ranks have to be told of the same steps, and measure the same"
            )
