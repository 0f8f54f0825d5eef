"""CUDA C++ kernels, found and compiled ahead of time: files -> launches -> builds.

A `.cu` file says in a comment for every configuration a kernel (an `extern "C" __global__` function) is launched in

    // launch: NAME threads=256 shared=65536 WIDTH=64 on=sm_80,sm_90

where `shared` is the dynamic shared memory of a block in bytes. Names in capitals are macros that are defined for this
launch (`-DWIDTH=64`); there may be none. `on` names the architectures that it is for; without, it is for all.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from architectures import ARCHITECTURES, WARP
from cubin import Build, Resources, disassemble, read_report, read_sass

LAUNCH = re.compile(r"// launch: (\w+) threads=(\d+) shared=(\d+)((?: [A-Z]\w*=\w+)*)(?: on=([\w,]+))?")

FORM = "// launch: NAME threads=N shared=BYTES [MACRO=VALUE ...] [on=sm_N,...]"


class Launch(NamedTuple):
    kernel: str
    threads: int
    shared: int
    macros: tuple[str, ...] = ()
    """Such as "WIDTH=64"."""
    architectures: tuple[str, ...] = ()
    """Empty: all."""

    def __str__(self) -> str:
        return " ".join([f"threads={self.threads}", f"shared={self.shared}", *self.macros])


def builds(path: Path, architecture: str) -> tuple[dict[Launch, Build], set[str]]:
    """Compiles a file: a build for each launch on the architecture, and the names of kernels without any launch.

    Raises ValueError where it does not compile, with nvcc's words, and where a launch comment is malformed, or names no
    kernel of the file or an architecture that there is not.
    """
    named = launches(path)
    here = [launch for launch in named if architecture in (launch.architectures or (architecture,))]
    made: dict[Launch, Build] = {}
    found: set[str] = set()
    for macros in dict.fromkeys(launch.macros for launch in here) or [()]:
        kernels, sass = _compiled(path, architecture, macros)
        found |= set(kernels)
        for launch in here:
            if launch.macros == macros:
                if launch.kernel not in kernels:
                    raise ValueError(f"names launches of {launch.kernel}, but has the kernels {', '.join(kernels)}")
                warps, name = -(-launch.threads // WARP), launch.kernel
                made[launch] = Build(_nvcc(), kernels[name], warps, launch.shared, sass[name])
    return {launch: made[launch] for launch in here}, found - {launch.kernel for launch in named}


def _compiled(
    path: Path, architecture: str, macros: tuple[str, ...]
) -> tuple[dict[str, Resources], dict[str, Counter[str]]]:
    """What each kernel of the file needs, and its tensor-core instructions."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        command = [
            "nvcc",
            "-cubin",
            "-std=c++17",
            f"-arch={architecture}",
            "-Xptxas",
            "-v",
            "-o",
            str(cubin),
            str(path),
        ]
        done = subprocess.run([*command, *(f"-D{macro}" for macro in macros)], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(done.stderr.strip())
        return read_report(done.stderr), read_sass(disassemble(cubin.read_bytes()))


def launches(path: Path) -> list[Launch]:
    """The launches that a file names, in its order. Raises ValueError where a comment is malformed."""
    found = []
    for line in map(str.strip, path.read_text().splitlines()):
        if line.startswith("// launch:"):
            match = LAUNCH.fullmatch(line)
            if match is None:
                raise ValueError(
                    f"{line!r} is not '// launch: NAME threads=N shared=BYTES [MACRO=VALUE ...] [on=sm_N,...]'"
                )
            name, threads, shared, macros, named = match.groups()
            architectures = tuple(named.split(",")) if named else ()
            if unknown := set(architectures) - set(ARCHITECTURES):
                raise ValueError(f"{line!r}: there is no architecture {', '.join(sorted(unknown))}")
            found.append(Launch(name, int(threads), int(shared), tuple(macros.split()), architectures))
    return found


@functools.cache
def _nvcc() -> str:
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release [\d.]+, V([\d.]+)", said)
    return f"nvcc {release[1] if release else 'of unknown version'}"
