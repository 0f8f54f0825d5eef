"""What a row's times are made from: the rounds of its visits."""

from __future__ import annotations

from dataclasses import dataclass, field

from timing import Spread


@dataclass
class Samples:
    """Milliseconds of every round of a row, visit by visit."""

    wall: list[list[float]] = field(default_factory=list)
    bare: list[list[float]] = field(default_factory=list)
    device: list[list[float]] = field(default_factory=list)
    timer: str = ""
    seconds: float = 0.0
    """What the first visit expects a call to take; later ones time as many calls."""

    def columns(self) -> dict[str, object]:
        row: dict[str, object] = {"rounds": sum(map(len, self.wall)), "device_timer": self.timer}
        for name, visits in (("wall", self.wall), ("device", self.device)):
            if visits:
                spread = Spread.of(*visits)
                row |= {f"{name}_ms": spread.median, f"{name}_p20_ms": spread.p20, f"{name}_p80_ms": spread.p80}
        if self.bare:
            pairs = zip(self.wall, self.bare, strict=True)
            ratio = Spread.of(*([t / b for t, b in zip(timed, bare, strict=True)] for timed, bare in pairs))
            row |= {"ratio": ratio.median, "ratio_p20": ratio.p20, "ratio_p80": ratio.p80}
            row["baseline_ms"] = Spread.of(*self.bare).median
        return row
