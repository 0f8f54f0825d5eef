"""Devices: has the tracked matrices of each device measured where they are, and brings the values to one device.

A model may be spread over several devices: by Hugging Face's `device_map`, by hand, or because embeddings stay on the
CPU. Each device's matrices have a `DeviceMeasurer` of their own, which has kernels, sketches, frozen rows and a stream
of its own. Only the values travel, a few numbers a matrix, to the device where the tracker keeps its rows (`home_of`).

`RankTracker.step` calls `Measurer.measure`, and appends what it returns to the history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..device import bring, capturing
from ..metrics import Tolerance
from ..streams import OwnStream
from ..weights import Source
from .device_measurer import DeviceMeasurer, those

if TYPE_CHECKING:
    from ..optim import Descent


ANEW: Mapping[str, Any] = {"trained": [], "starts": {}, "sketches": None}
"""The `Measurer.state` after which everything begins anew."""


def place_of(matrix: Tensor) -> torch.device:
    """The device on which a matrix is measured. Tests replace this function, because a CPU is but one device."""
    return matrix.device


def by_device(sources: Sequence[Source]) -> dict[torch.device, list[int]]:
    """Indices of the matrices on each device, in their order."""
    found: dict[torch.device, list[int]] = {}
    for i, source in enumerate(sources):
        found.setdefault(place_of(source.matrix), []).append(i)
    return found


def home_of(sources: Sequence[Source]) -> torch.device:
    """The device to which a tracker brings the values of these matrices: the first CUDA device among them.

    A copy from the CPU, or between CUDA devices, is ordered on the devices. With values brought from a CUDA device to
    the CPU, the host would wait for the device at every step. Hence the CPU is chosen only if no matrix is elsewhere,
    also where the first matrix is an embedding that is kept on the CPU.
    """
    devices = [place_of(source.matrix) for source in sources]
    return next((device for device in devices if device.type == "cuda"), devices[0])


class Part(NamedTuple):
    """The tracked matrices of one device."""

    device: torch.device
    indices: list[int]
    """Where they stand among all tracked matrices."""
    sources: Sequence[Source]


class Own(NamedTuple):
    """What a device has of its own."""

    measurer: DeviceMeasurer
    stream: OwnStream


class Measurer:
    """Measures the tracked matrices after each step; any may have been replaced, or moved to another device, since.

    At each step, `prepare` is called before the optimizer's step, `fuse` in the step of a `fastrank.SGD`, and `measure`
    after it. Only `measure` is necessary: the other two save a pass over the weights.

    A CUDA graph can capture a step only if all matrices are on `device`, because it captures the work of one device.

    Args:
        tolerances: of the ranks, at least one.
        spectrum: metrics of the whole spectrum that a row has columns for, see `row.check_spectrum`.
        device: where the values go; see `home_of`.
        stream: of `device`, where the kernels run that read no weights. Values are to be read in its `current()`,
            before the next step is measured.
    """

    def __init__(
        self, tolerances: Sequence[Tolerance], spectrum: Sequence[str], device: torch.device, stream: OwnStream
    ) -> None:
        self._given = tolerances, spectrum
        self._device, self._stream = device, stream
        self._home = DeviceMeasurer(tolerances, spectrum, device, stream)
        self._of = {device: Own(self._home, stream)}
        self._parts: list[Part] = []
        self._sources: Sequence[Source] | None = None  # of these parts, if all are views: others would be kept alive
        self._order: tuple[list[int], Tensor] | None = None
        self._values: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        """Bytes on all devices that the kernels work in."""
        return sum(own.measurer.nbytes for own in self._of.values())

    def prepare(self, sources: Sequence[Source] | None) -> None:
        """Announce that the coming step will be measured, so that it may `fuse`; None: it will not be measured.

        Raises:
            RuntimeError: a CUDA graph is being captured, and not all matrices are on the tracker's device.
        """
        if sources is None:
            for own in self._of.values():
                own.measurer.prepare(None)
            return
        parts = self._divide(sources)
        self._refuse_capture(parts)
        for part in parts:
            self._own(part.device).measurer.prepare(part.sources)

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """Step some parameters of `descent` in the pass that sketches them; return their `id`s. See `Bases.fuse`.

        An optimizer has a descent on each device, and calls this for each."""
        own = self._of.get(descent.device)
        return own.measurer.fuse(descent, grad_scale, found_inf) if own is not None else set()

    def measure(
        self, sources: Sequence[Source], due: bool, found_inf: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Measure all matrices, after a step.

        Args:
            sources: the matrices with their parameters.
            due: measure the whole spectrum as well.
            found_inf: on any CUDA device, not 0 where the optimizer took no step: the bases of the sketches then stay
                as they are (default None: it took one).

        Returns:
            Values `(matrices, columns)` FP64, see `row.columns`; and the singular values of all matrices, end to end,
            if the spectrum is due and `"singular_values"` is recorded (else None). Both are on the tracker's device.

        Raises:
            RuntimeError: a CUDA graph is being captured, and not all matrices are on the tracker's device.
        """
        parts = self._divide(sources)
        if self._at_home(parts):
            values, sigma = self._home.measure(sources, due, found_inf)
        else:
            self._refuse_capture(parts)
            values, sigma = self._measure_each(parts, due, found_inf)
        recorded = due and "singular_values" in self._given[1]
        return values, torch.cat([sigma[i] for i in range(len(sources))]) if recorded else None

    def state(self, sources: Sequence[Source]) -> dict[str, Any]:
        """What `load` needs, for a checkpoint. Waits for the devices.

        With the matrices on one device this is the state of its measurer. With several it has the same keys, so that
        every version can load it: but sketches, which belong to the matrices of one device, are under `"devices"`.
        """
        parts = self._divide(sources)
        states = [(part.indices, self._own(part.device).measurer.state(part.sources)) for part in parts]
        if len(states) == 1:
            return states[0][1]
        return {
            "trained": sorted(indices[i] for indices, state in states for i in state["trained"]),
            "starts": {indices[i]: x for indices, state in states for i, x in state["starts"].items()},
            "sketches": None,
            "devices": [
                {"matrices": indices, "trained": state["trained"], "sketches": state["sketches"]}
                for indices, state in states
            ],
        }

    def load(self, sources: Sequence[Source], state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, with the matrices that `sources` now has.

        A device goes on with sketches of just the matrices that it has now, on whatever device these were. Otherwise
        its sketches begin anew, as they do for a new tracker.
        """
        whole = {"matrices": list(range(len(sources))), "trained": state["trained"], "sketches": state["sketches"]}
        known = state.get("devices", [whole])
        for part in self._divide(sources):
            same = next((saved for saved in known if saved["matrices"] == part.indices), None)
            starts = {place: state["starts"][i] for place, i in enumerate(part.indices) if i in state["starts"]}
            trained, sketches = (same["trained"], same["sketches"]) if same else ([], None)
            own = {"trained": trained, "starts": starts, "sketches": sketches}
            self._own(part.device).measurer.load(part.sources, own)

    def _measure_each(
        self, parts: Sequence[Part], due: bool, found_inf: Tensor | None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """As `DeviceMeasurer.measure`, each device's matrices by its own measurer.

        Where the host does the work, on a CPU, it does so last, when the CUDA devices have theirs.
        """
        for own in self._of.values():
            own.stream.join()
        self._values = []  # kept until here: the own streams have read them
        sigma: dict[int, Tensor] = {}
        parts = sorted(parts, key=lambda part: part.device.type == "cpu")
        for part in parts:
            values, more = self._own(part.device).measurer.measure(part.sources, due, found_inf)
            self._values.append(values)
            sigma |= {part.indices[i]: bring(x, self._device) for i, x in more.items()}
        places = self._places([i for part in parts for i in part.indices])
        if not due:  # then no training waits for what another device has still to measure
            for device in {self._device, *(part.device for part in parts)}:
                self._own(device).stream.fork()
        brought = []
        with self._stream.current():
            for part, values in zip(parts, self._values, strict=True):
                with self._own(part.device).stream.current():  # on which a copy to another device runs
                    brought.append(bring(values, self._device))
            return torch.cat(brought)[places], sigma

    def _divide(self, sources: Sequence[Source]) -> list[Part]:
        """The matrices by device. What belongs to a device that no matrix is on any more is given up."""
        if sources is self._sources:
            return self._parts
        divided = by_device(sources)
        for device in [known for known in self._of if known != self._device and known not in divided]:
            del self._of[device]
        parts = [Part(device, indices, those(sources, indices)) for device, indices in divided.items()]
        views = all(source.offset is not None for source in sources)
        self._parts, self._sources = (parts, sources) if views else ([], None)
        return parts

    def _own(self, device: torch.device) -> Own:
        """The measurer and the stream of a device, which are made when they are first asked for."""
        if device not in self._of:
            stream = OwnStream(device)
            self._of[device] = Own(DeviceMeasurer(*self._given, device, stream), stream)
        return self._of[device]

    def _at_home(self, parts: Sequence[Part]) -> bool:
        """Whether all matrices are on the tracker's device."""
        return all(part.device == self._device for part in parts)

    def _refuse_capture(self, parts: Sequence[Part]) -> None:
        if not self._at_home(parts) and any(capturing(part.device) for part in parts):
            devices = ", ".join(dict.fromkeys(str(part.device) for part in parts))
            raise RuntimeError(
                f"a CUDA graph captures the work of one device, but the tracked matrices are on {devices} and the "
                f"tracker's rows on {self._device}: make the tracker without optimizer, and call its step() between "
                "replays; or let include= choose the matrices of one device"
            )

    def _places(self, order: list[int]) -> Tensor:
        """Where each matrix stands in `order`, on the tracker's device."""
        if self._order is None or self._order[0] != order:
            places = torch.tensor(order, dtype=torch.int64).argsort()
            self._order = order, bring(places, self._device)
        return self._order[1]
