"""What came of compiling one kernel for one architecture: whether it can be accepted, and how it is shown."""

from __future__ import annotations

from typing import NamedTuple

from architectures import ARCHITECTURES, Architecture, Occupancy, occupancy
from cubin import Build

HEADING = f"{'':10}{'registers':>9}{'stack':>7}{'spills':>12}{'shared':>8}  {'occupancy':23}tensor-core instructions"
COLUMNS = (
    *("kernel", "configuration", "architecture", "registers", "stack", "spill_stores", "spill_loads"),
    *("static_shared", "dynamic_shared", "tensor_memory", "warps", "blocks", "occupancy", "limit", "sass", "ptx"),
    *("compiler", "problem"),
)


class Result(NamedTuple):
    kernel: str  # module.function
    configuration: str = ""  # empty, as the next two, where it did not come so far
    architecture: str = ""
    build: Build | None = None
    problem: str = ""

    def __str__(self) -> str:
        return "  ".join(part for part in (self.kernel, self.configuration, self.architecture) if part)


def fit(build: Build, architecture: Architecture) -> Occupancy:
    return occupancy(architecture, build.resources.registers, build.warps, build.shared, build.tensor_memory)


def judged(kernel: str, configuration: str, architecture: Architecture, build: Build) -> Result:
    """The result of a build, with its problem if it spills or cannot be launched."""
    problems = []
    if build.resources.spill_stores or build.resources.spill_loads:
        problems.append(f"spills: {build.resources.spill_stores} bytes stored, {build.resources.spill_loads} loaded")
    if build.shared > architecture.block_shared:
        problems.append(f"{build.shared} bytes of shared memory, where a block can have {architecture.block_shared}")
    elif not (room := fit(build, architecture)).blocks:
        problems.append(f"cannot be launched: not even one block fits ({room.limit})")
    return Result(kernel, configuration, architecture.name, build, "; ".join(problems))


def _sass(build: Build, each: str, between: str, unknown: str = "", none: str = "") -> str:
    """The tensor-core instructions of a build, and how many there are of each."""
    if build.sass is None:
        return unknown
    return between.join(each.format(count, name) for name, count in sorted(build.sass.items())) or none


def line(architecture: Architecture, build: Build) -> str:
    """A row of the printed table, under `HEADING`."""
    used, room = build.resources, fit(build, architecture)
    spills, occupied = f"{used.spill_stores}+{used.spill_loads}", f"{room.fraction:.1%} ({room.limit})"
    return (
        f"  {architecture.name:8}{used.registers:9}{used.stack:7}{spills:>12}{build.shared:8}  {occupied:23}"
        + _sass(build, "{} {}", ", ", "not looked for", "none")
        + (f" ({', '.join(build.ptx)})" if build.ptx else "")
    )


def row(result: Result) -> dict[str, object]:
    """A row of the CSV file, under `COLUMNS`; what is not known is left out."""
    cells: dict[str, object] = {
        "kernel": result.kernel,
        "configuration": result.configuration,
        "architecture": result.architecture,
        "problem": result.problem,
    }
    if (build := result.build) is not None:
        room = fit(build, ARCHITECTURES[result.architecture])
        cells |= build.resources._asdict() | room._asdict()
        cells["occupancy"] = round(cells.pop("fraction"), 4)
        cells |= {"dynamic_shared": build.dynamic_shared, "tensor_memory": build.tensor_memory, "warps": build.warps}
        cells["sass"] = _sass(build, "{}x{}", " ")
        cells |= {"ptx": " ".join(build.ptx), "compiler": build.compiler}
    return cells
