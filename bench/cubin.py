"""What the assembler made of a kernel: read from ptxas's report (`-v`), from SASS, and from PTX.

Spills are in the report only: in the binary they are local memory like any other. Static shared memory is taken from it
too, because `cuobjdump -res-usage` adds the driver's 1 KiB from sm_90 on.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple


class Resources(NamedTuple):
    """Of one thread, but for the shared memory, which is a block's."""

    registers: int
    stack: int  # bytes
    spill_stores: int  # bytes
    spill_loads: int  # bytes
    static_shared: int  # bytes


class Build(NamedTuple):
    """One kernel in one launch configuration, compiled for one architecture."""

    compiler: str
    resources: Resources
    warps: int  # of a block
    dynamic_shared: int  # bytes of a block
    sass: Counter[str] | None  # tensor-core instructions of the binary, where it was disassembled
    ptx: tuple[str, ...] = ()  # those they came from, where there is PTX
    tensor_memory: int = 0  # columns of a block

    @property
    def shared(self) -> int:
        return self.resources.static_shared + self.dynamic_shared


ENTRY = re.compile(r"Compiling entry function '(\w+)'")
FRAME = re.compile(
    r"Function properties for (\S+)\n"
    r" *(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)
REGISTERS = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def read_report(report: str) -> dict[str, Resources]:
    """Resources of every entry function in a ptxas report.

    Functions that were not inlined are reported with an entry function that calls them; their spills are counted to it.
    Raises ValueError where something is missing, because what is not there must not be read as no spills.
    """
    kernels: dict[str, Resources] = {}
    starts = [match.start() for match in ENTRY.finditer(report)]
    for start, end in itertools.pairwise([*starts, len(report)]):
        part = report[start:end]
        entry = part.split("'")[1]
        frames = {name: tuple(map(int, numbers)) for name, *numbers in FRAME.findall(part)}
        registers, shared = REGISTERS.findall(part), SHARED.search(part)
        if entry not in frames or len(registers) != 1:
            raise ValueError(f"ptxas's report is not understood:\n{part}")
        kernels[entry] = Resources(
            registers=int(registers[0]),
            stack=frames[entry][0],
            spill_stores=sum(stores for _, stores, _ in frames.values()),
            spill_loads=sum(loads for _, _, loads in frames.values()),
            static_shared=int(shared[1]) if shared else 0,
        )
    return kernels


# An instruction of SASS: its address in a comment, perhaps a predicate, and a name such as DMMA.8x8x4 (FP64 mma.sync),
# HMMA.1688.F32.TF32 (mma.sync), HGMMA.64x64x8.F32.TF32 (wgmma) or UTCHMMA (tcgen05.mma, which does not show its shape).
SASS = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\w*MMA[\w.]*)\s")
PTX = re.compile(r"\b((?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)[\w.:]*)")


def read_sass(sass: str) -> dict[str, Counter[str]]:
    """How many tensor-core instructions of each kind every function of a disassembly has."""
    kernels: dict[str, Counter[str]] = {}
    found: Counter[str] = Counter()
    for line in sass.splitlines():
        if "Function : " in line:
            found = kernels.setdefault(line.partition("Function : ")[2].strip(), Counter())
        elif match := SASS.search(line):
            found[match[1]] += 1
    return kernels


def read_ptx(ptx: str) -> tuple[str, ...]:
    """The kinds of tensor-core instructions in PTX, without the words that all of them have."""
    return tuple(sorted({re.sub(r"\.(sync|aligned|row|col)(?=\.|$)", "", name) for name in PTX.findall(ptx)}))


def disassemble(cubin: bytes) -> str:
    """SASS of a binary, by the `cuobjdump` of Triton's wheel, or of the CUDA toolkit where there is no Triton."""
    try:
        from triton import knobs
    except ImportError:
        tool = shutil.which("cuobjdump")
        if tool is None:
            raise FileNotFoundError("no cuobjdump: it comes with Triton and with the CUDA toolkit") from None
    else:
        tool = knobs.nvidia.cuobjdump.path
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return subprocess.run([tool, "-sass", path], capture_output=True, text=True, check=True).stdout
