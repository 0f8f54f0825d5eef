"""Steps: counts the steps of a model, and says at which of them the matrices are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_count
from ..history import SKIPPED, StepNumber, on_host
from ..schedules import Rule, check_rule, load_state_of, state_of


class Due(NamedTuple):
    """What is to be measured after a step."""

    anything: bool
    spectrum: bool
    """The whole spectrum as well."""


class Steps:
    """The steps of one training.

    Args:
        every: after which steps, beside the first, the matrices are measured: a number, or a rule.
        spectrum_every: the same for metrics of the whole spectrum; None: whenever the matrices are measured.
        spectrum: their names; may be empty.
        device: where the number of a step is written into a row.
        first: the number of the first step.

    Raises:
        TypeError, ValueError: an argument, which is named as those of `RankTracker`, is none of these.
    """

    def __init__(
        self,
        every: int | Rule,
        spectrum_every: int | Rule | None,
        spectrum: Sequence[str],
        device: torch.device,
        first: int = 1,
    ) -> None:
        self._every, self._spectrum = check_rule(every, "every"), spectrum
        self._spectrum_every = None if spectrum_every is None else check_rule(spectrum_every, "spectrum_every")
        self._answer: tuple[int, Due] = (-1, Due(False, False))  # about the step of that number
        self.begun = False
        """Whether any step was counted."""
        self.first: int | None = None
        """The first step that was measured, as the host counts."""
        self.read = -1
        """The step whose scalars were read last."""
        first = check_count(first, "first_step", 1)
        self._calls = first - 1  # steps as the host counts them: on CUDA it does not know which were skipped
        self._taken: StepNumber = first - 1
        if not on_host(device):
            self._taken = torch.full((), first - 1, dtype=torch.int64, device=device)
        self._number = torch.zeros((), dtype=torch.int64, device=device)  # of the last step, if it may be skipped

    def count(self, found_inf: Tensor | None, step: int | None, captured: bool) -> tuple[StepNumber, Due]:
        """Count a step. Returns the number of its row and what is to be measured. A number on a device stays where it
        is until the next step is counted.

        Args:
            found_inf: on CUDA; not 0 where no step was taken: the number is then `SKIPPED`. None: it was taken.
            step: its number (None: one more than the last one's).
            captured: a CUDA graph is being captured: the host counts the step when it is replayed.

        Raises:
            ValueError: `step` is not larger than the last one's, or given in a capture. TypeError: not an integer.
            RuntimeError: a whole spectrum would be captured.
        """
        if captured and self._spectrum:
            raise RuntimeError(
                f"spectrum: {', '.join(self._spectrum)} cannot be captured in a CUDA graph; make this tracker without, "
                "and a second one with it and without optimizer, whose step() is called between replays"
            )
        if step is not None and captured:
            raise ValueError("step: replays of a CUDA graph count by themselves; leave out step= while it is captured")
        call = self._calls + 1 if step is None else check_count(step, "step", self._calls + 1)
        due = self.due(call, captured)
        if self.first is None and due.anything:
            self.first = call
        if not captured:
            self._calls, self.begun = call, True
        if step is not None:
            self._go_on_from(step - 1)
        if found_inf is None:
            self._taken += 1
            return self._taken, due
        assert isinstance(self._taken, Tensor)
        # The host does not know whether the step was taken, and does not wait to hear.
        skipped = found_inf.to(self._taken.device, non_blocking=True).reshape(()) != 0
        self._taken += ~skipped
        return self._number.copy_(torch.where(skipped, SKIPPED, self._taken)), due

    def coming(self, captured: bool) -> Due:
        """What is to be measured after the coming step, if it has no number of its own."""
        return self.due(self._calls + 1, captured)

    def due(self, call: int, captured: bool) -> Due:
        """What is to be measured after the step `call`: everything at the first, and whatever a graph captures."""
        if captured:
            return Due(True, bool(self._spectrum))
        if self._answer[0] != call:  # a rule is asked once about each step
            first, apart = not self.begun, self._spectrum_every
            due = self._every(call) or first
            whole = due if apart is None else apart(call) or first
            spectrum = bool(self._spectrum) and whole
            self._answer = call, Due(due or spectrum, spectrum)
        return self._answer[1]

    def replayed(self, steps: int) -> None:
        """Count the steps that a CUDA graph has replayed."""
        self._calls += steps

    @property
    def _rules(self) -> list[Rule]:
        return [rule for rule in (self._every, self._spectrum_every) if rule is not None]

    @property
    def rule(self) -> Rule:
        """After which steps the matrices are measured."""
        return self._every

    def zero(self) -> StepNumber:
        """The number of the row of a model as it is before the first step."""
        self.first = self._calls
        return self._taken + 0  # a tensor of its own: the other one is counted up

    @property
    def calls(self) -> int:
        """The number of the last step, as the host counts."""
        return self._calls

    def memory(self) -> dict[str, Any]:
        """Whether there was a step, the first one, the last that was read, and what schedules remember."""
        own = {"begun": self.begun, "first": self.first, "read": self.read}
        return {**own, "rules": list(map(state_of, self._rules))}

    def state(self) -> dict[str, int]:
        """Numbers for a checkpoint. Waits for the device."""
        return {"calls": self._calls, "steps": int(self._taken)}

    def load(self, calls: int, steps: int, memory: Mapping[str, Any] | None = None) -> None:
        """Go on from a `state`, and from its `memory`, if it is of a version that had one."""
        self._calls, self.begun, self._answer = calls, calls > 0, (-1, self._answer[1])
        self.read = -1
        if memory is not None:
            self.begun, self.first, self.read = memory["begun"], memory["first"], memory["read"]
            for rule, remembered in zip(self._rules, memory["rules"], strict=False):
                load_state_of(rule, remembered)
        self._go_on_from(steps)

    def _go_on_from(self, steps: int) -> None:
        """Have this many steps been taken."""
        if isinstance(self._taken, Tensor):
            self._taken.fill_(steps)  # where a CUDA graph finds it
        else:
            self._taken = steps
