"""Together: the rows that ranks have measured, put together, so that every rank has all of them.

Of replicas only one is measured, so these are compared at the first step. If ranks gave one name to different matrices,
as the stages of a pipeline do that each number their layers from 0, all but one would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..device import bring, mark, to_host
from ..measuring import columns
from ..metrics import Status, Tolerance
from ..weights import Source
from .holdings import Group
from .plan import Plan
from .ranks import Ranks
from .travelling import Found

LAG = 16
"""Measurements after which the host looks at what the ranks have told each other, on CUDA."""
SAMPLED = 16
"""Elements of a part that are compared."""
DRIFT = 0.1
"""Relative difference of two samples, in the Frobenius norm, above which they are of different matrices. Replicas may
drift apart, in the last bits or between averages; two random matrices of one kind differ by about 1.4."""


class Together:
    """Puts rows together, and with them what the ranks have to know of each other at each measurement.

    Args:
        plan: that all ranks have made. ranks: the processes.
        tolerances, spectrum, device: as of `Measurer`.

    Attributes:
        step: the number of the step that this rank measures, which all ranks have to be at.
        wants_stop: set it to have all ranks stop training. should_stop: whether any has asked for that.
        begins_anew: set it to have all ranks begin their sketches anew. shall_begin_anew: whether any has asked for
            that; whoever reads it sets it back.

    What one has asked for, all see after the same measurement: the next one on a CPU, and the `LAG`th one on CUDA.
    """

    def __init__(
        self,
        plan: Plan,
        ranks: Ranks,
        tolerances: Sequence[Tolerance],
        spectrum: Sequence[str],
        device: torch.device,
    ) -> None:
        self._ranks, self._device = ranks, device
        self._columns = columns(tolerances, spectrum)
        self._records_all = "singular_values" in spectrum
        self._sides = [min(matrix.shape) for matrix in plan.matrices]
        self._sent: list[tuple[Tensor, torch.cuda.Event | None]] = []
        self.step = 0
        self.wants_stop = self.should_stop = False
        self.begins_anew = self.shall_begin_anew = False

    def put(self, found: Found, absent: Sequence[int], due: bool) -> tuple[Tensor, Tensor | None]:
        """The rows of all ranks, and the singular values if they are due and recorded.

        Args:
            found: what this rank has measured. A matrix that no rank has measured gets a row of zeros.
            absent: indices of the matrices that are not there, as far as this rank is concerned.
        """
        count, width, me = len(self._sides), len(self._columns), self._ranks.rank
        flat = torch.zeros(count * (width + 1) + self._ranks.size + 2, dtype=torch.float64, device=self._device)
        table, told = flat[: count * (width + 1)].view(count, width + 1), flat[count * (width + 1) :]
        for i, row in found.rows.items():
            table[i, :width] = row
        if absent:
            table[absent, width] = 1.0
        told[me], told[-2], told[-1] = self.step, float(self.wants_stop), float(self.begins_anew)
        self.begins_anew = False
        self._ranks.sum_(flat)
        self._hear(told)
        values, without, steps = table[:, :width], table[:, width] > 0, told[:-2]
        # Different steps are an error, of which the host may hear later: until then their rows have no numbers.
        mixed = (steps != steps[0]).any()
        values.masked_fill_(mixed, torch.nan)
        values[:, self._columns.index("status")].masked_fill_(without | mixed, float(Status.ABSENT))
        if not (due and self._records_all):
            return values, None
        sigma = torch.zeros(sum(self._sides), dtype=torch.float64, device=self._device)
        for own, i in zip(torch.split(sigma, self._sides), range(count), strict=True):
            if i in found.sigma:
                own.copy_(found.sigma[i])
        return values, self._ranks.sum_(sigma).masked_fill_(mixed, torch.nan)

    def hear_all(self) -> None:
        """Look at what the ranks have told each other and the host has not looked at yet.

        Raises:
            RuntimeError: they have measured different steps.
        """
        while self._sent:
            self._hear_late()

    def forget(self) -> None:
        """Look at nothing more of that."""
        self._sent.clear()

    def _hear(self, told: Tensor) -> None:
        """Raise an error if the ranks have measured different steps, and take note of what one has asked for.

        On CUDA the host does not wait, and looks at what is long there. All ranks look at the same then.
        """
        if self._device.type == "cpu":
            self._take_note(told)
            return
        self._sent.append((to_host(told), mark(self._device)))
        if len(self._sent) > LAG:
            self._hear_late()

    def _hear_late(self) -> None:
        told, event = self._sent.pop(0)
        if event is not None:
            event.synchronize()
        self._take_note(told)

    def _take_note(self, told: Tensor) -> None:
        *steps, stops, anew = told.tolist()
        self.should_stop |= stops > 0
        self.shall_begin_anew |= anew > 0
        other = next((rank for rank, step in enumerate(steps) if step != steps[0]), None)
        if other is not None:
            raise RuntimeError(
                f"{self._ranks.name(0)} has measured step {steps[0]:.0f} and {self._ranks.name(other)} step "
                f"{steps[other]:.0f}: the trackers of all ranks have to be told of the same steps, and measure the same"
            )


class Replicas:
    """Compares replicas, once.

    Args:
        ranks: the processes.
        names: of the matrices.
        groups: of replicas, the same on all ranks.
        device: where the numbers are.
    """

    def __init__(self, ranks: Ranks, names: Sequence[str], groups: Sequence[Group], device: torch.device) -> None:
        self._ranks, self._names, self._device = ranks, names, device
        self._groups: Sequence[Group] = groups

    def compare(self, sources: Mapping[int, Source]) -> None:
        """Compare the replicas, at the first call; all ranks have to call this.

        Args:
            sources: what this rank has, by index of the matrix.

        Raises:
            RuntimeError: on all ranks, if any two of them differ.
        """
        groups, self._groups = self._groups, ()
        if not groups:
            return
        size, me = self._ranks.size, self._ranks.rank
        samples = torch.zeros(len(groups), size, SAMPLED, dtype=torch.float64, device=self._device)
        for place, (i, members) in enumerate(groups):
            if me in members:
                samples[place, me] = _sample(bring(sources[i].matrix, self._device))
        for own, (i, members) in zip(self._ranks.sum_(samples).cpu(), groups, strict=True):
            first = own[members[0]]
            for rank in members[1:]:
                if (own[rank] - first).norm() > DRIFT * max(first.norm(), own[rank].norm()):
                    raise RuntimeError(
                        f"{self._names[i]!r} has other values on {self._ranks.name(rank)} than on "
                        f"{self._ranks.name(members[0])}, and is no replica of it. Of ranks that measure together, "
                        "different matrices need names of their own: stages of a pipeline those of the whole model"
                    )


def _sample(matrix: Tensor) -> Tensor:
    """Some elements of a part, those that are not finite as 0."""
    flat = matrix.reshape(-1)
    places = torch.linspace(0, max(0, flat.numel() - 1), SAMPLED, device=flat.device).long()
    return flat[places].double().nan_to_num(0.0, 0.0, 0.0)
