"""CUDA C++ kernels, found and compiled ahead of time: files -> launches -> builds.

A `.cu` file says in a comment for every configuration a kernel (an `extern "C" __global__` function) is launched in

    // launch: NAME threads=256 shared=65536

where `shared` is the dynamic shared memory of a block in bytes.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from architectures import WARP
from cubin import Build, disassemble, read_report, read_sass

LAUNCH = re.compile(r"\s*// launch: (\w+) threads=(\d+) shared=(\d+)\s*")


class Launch(NamedTuple):
    kernel: str
    threads: int
    shared: int

    def __str__(self) -> str:
        return f"threads={self.threads} shared={self.shared}"


def builds(path: Path, architecture: str) -> tuple[dict[Launch, Build], set[str]]:
    """Compiles a file: a build for each launch it names, and the names of its kernels that have none.

    Raises ValueError where it does not compile, with nvcc's words, and where a launch comment is malformed or names no
    kernel of the file.
    """
    launches = _launches(path)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        command = ["nvcc", "-cubin", f"-arch={architecture}", "-Xptxas", "-v", "-o", str(cubin), str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(done.stderr.strip())
        kernels, sass = read_report(done.stderr), read_sass(disassemble(cubin.read_bytes()))
    if unknown := {launch.kernel for launch in launches} - set(kernels):
        raise ValueError(f"names launches of {', '.join(sorted(unknown))}, but has the kernels {', '.join(kernels)}")
    made = {
        launch: Build(_nvcc(), kernels[launch.kernel], -(-launch.threads // WARP), launch.shared, sass[launch.kernel])
        for launch in launches
    }
    return made, set(kernels) - {launch.kernel for launch in launches}


def _launches(path: Path) -> list[Launch]:
    found = []
    for line in path.read_text().splitlines():
        if line.lstrip().startswith("// launch:"):
            match = LAUNCH.fullmatch(line)
            if match is None:
                raise ValueError(f"{line.strip()!r} is not '// launch: NAME threads=N shared=BYTES'")
            found.append(Launch(match[1], int(match[2]), int(match[3])))
    return found


@functools.cache
def _nvcc() -> str:
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release [\d.]+, V([\d.]+)", said)
    return f"nvcc {release[1] if release else 'of unknown version'}"
