"""What each command of the drill does: its stages, with their limits, on a CUDA machine and in a rehearsal."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import gpu_names
from stages import Stage

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
PYTEST = [sys.executable, "-P", "-m", "pytest"]
"""Without the working folder on the path, whose `fastrank` has no kernels: it would hide the package of links."""
TELLING = 15.0
"""Seconds that are left of a stage of tests when none begins any more."""


@dataclass(frozen=True)
class Drill:
    """Where everything is.

    Attributes:
        rows: the file of measured rows. folder: of everything else that is kept.
        carry: wheels and data that were brought along.
        rehearsed: without a GPU. short: with as little work as there can be.
        emulator: folder of an emulator of PTX and of a driver that launches nothing; None: there is none.
        begun: what every command begins with has ended well on this machine: it is left out.
    """

    rows: Path
    folder: Path
    carry: Path
    rehearsed: bool = False
    short: bool = False
    emulator: Path | None = None
    begun: bool = False

    @property
    def scratch(self) -> Path:
        """What nobody keeps."""
        return ROOT / "build" / ("rehearsal" if self.rehearsed else "gpu")

    @property
    def device(self) -> str:
        return "cpu" if self.rehearsed else "cuda"

    def script(self, name: str, *arguments: object) -> list[str]:
        return [sys.executable, str(BENCH / f"{name}.py"), *map(str, arguments)]

    def pytest(self, *arguments: object, limit: float, workers: int, each: float = 20) -> list[str]:
        """Tests, side by side and with limits where the plugins for that are there.

        Args:
            limit: seconds of the stage. Before they are over no test begins any more, so that what failed is told.
            workers: processes; a rehearsal has one.
            each: seconds of a test.
        """
        command = [*PYTEST, *map(str, arguments), "-q", "-p", "no:cacheprovider", "-W", "default"]
        parallel = importlib.util.find_spec("xdist") is not None
        if parallel:
            command += ["-n", str(1 if self.rehearsed else workers)]
        if importlib.util.find_spec("pytest_timeout"):
            command += ["--timeout", f"{each:g}", "--session-timeout", f"{limit - TELLING:g}"]
            # A launch that hangs hears no signal: only the end of its process ends it, which is to be a worker's.
            command += ["--timeout-method", "thread"] if parallel else []
        return command

    def emulated(self, command: Sequence[str]) -> list[str]:
        """The command with the Triton of CUDA machines, and the emulator's folder to import from."""
        paths = f"{ROOT / 'build' / 'triton-3.6.0'}:{self.emulator}"
        return ["sh", "-c", f'PYTHONPATH="{paths}:$PYTHONPATH" exec "$@"', "sh", *command]


def check(d: Drill) -> list[Stage]:
    """Does everything work? Five minutes."""
    own = _rows(d, "own rows", 60, "--ours", ("rank", "step", "gram"), visits=1)
    return [*_begin(d), *_tests(d), own, _profile(d), *_sanitizers(d)]


def measure(d: Drill) -> list[Stage]:
    """How fast is it, and how fast are the others? Six minutes."""
    return [
        *_begin(d),
        _rows(d, "own rows", 65, "--ours", ("rank", "step", "gram", "lowrank"), visits=2),
        _rows(d, "training rows", 45, "--ours", ("training", "graph"), visits=1),
        _rows(d, "rivals", 100, "--rivals", ("rank", "step", "gram", "lowrank", "training"), visits=1),
        Stage("stacked trials", d.script("throughput", *_throughput(d)), 35, needs=("pydantic",)),
        # Matrices are made by many processes at once: NumPy's products in each are to keep to its own core.
        Stage("truth", ["env", "OPENBLAS_NUM_THREADS=1", *d.script("truth", *_truth(d))], 40),
    ]


def reproduce(d: Drill) -> list[Stage]:
    """The paper's ResNet-18, the rank of every matrix at every step. Five minutes."""
    return [
        *_begin(d),
        Stage("data", d.script("gpu_reproduce", "data", *_reproduction(d)), 40, needs=("pydantic", "datasets")),
        Stage("training", d.script("gpu_reproduce", "train", *_reproduction(d)), 145, needs=("pydantic", "datasets")),
        Stage("report", d.script("gpu_reproduce", "report", *_reproduction(d)), 40, needs=("pydantic", "datasets")),
    ]


def plan(name: str, d: Drill) -> list[Stage]:
    """A command's stages. In a rehearsal limits are wide, and two more come between: one hangs, the other crashes."""
    planned = PLANS[name](d)
    if not d.rehearsed:
        return planned
    patient = [replace(stage, limit=PATIENCE * stage.limit) for stage in planned]
    return [*patient[:1], *PLANTED, *patient[1:]]


PATIENCE = 10
"""Times a stage's limit that it has in a rehearsal: on a small machine, with others on it."""
PLANTED = (
    Stage("planted: hangs", [sys.executable, "-c", "import time; time.sleep(600)"], 2.0),
    Stage("planted: crashes", [sys.executable, "-c", "import os; os.abort()"], 60.0),
)
PLANTED_ENDS = ("too long", "failed")

PLANS: dict[str, Callable[[Drill], list[Stage]]] = {"check": check, "measure": measure, "reproduce": reproduce}
FILES = {
    "check": ("stages.csv", "log.txt", "profile.csv"),
    "measure": ("stages.csv", "log.txt", "truth.csv"),
    "reproduce": ("stages.csv", "log.txt", "history.parquet", "report.html", "summary.csv"),
}
"""What a command leaves in its folder, if all goes well; the first two beside rows."""
TOTALS = {"check": 315, "measure": 375, "reproduce": 315}
"""Seconds that the limits of a command's stages may add up to."""


def seconds(planned: Sequence[Stage]) -> float:
    """The most that stages can take together: those of a group count once."""
    groups = groupby(enumerate(planned), key=lambda pair: pair[1].group or pair[0])
    return sum(max(stage.limit for _, stage in group) for _, group in groups)


BEGINNING = ("install", "machine", "compile")
"""What every command begins with."""


def _begin(d: Drill) -> list[Stage]:
    if d.begun:
        return []
    compiling = d.script("gpu_compile", *(["--arch", "sm_90", "--only", "sgd"] if d.rehearsed else []))
    return [
        Stage("install", d.script("gpu_install", d.carry), 25),
        Stage("machine", d.script("gpu_machine"), 15),
        Stage("compile", compiling, 50, needs=("triton",)),
    ]


def _tests(d: Drill) -> list[Stage]:
    limit = 70 * (PATIENCE if d.rehearsed else 1)
    kernels = d.pytest("tests/kernels", "-m", "gpu", limit=limit, workers=6)
    files = ("tests/test_cuda.py", "tests/measuring/test_cuda_compilation.py", "tests/sharing/test_devices.py")
    cuda = d.pytest(*files, "-m", "gpu", limit=limit, workers=3)
    stack = d.pytest("tests/experiments/training/test_stack_cuda.py", limit=limit, workers=3)
    if d.rehearsed:
        few = ["tests/kernels/step/test_descent.py", *([] if d.short else ["tests/kernels/count/test_gram.py"])]
        kernels = d.pytest(*few, *(["-p", "sm90_emulator"] if d.emulator else []), limit=limit, workers=1, each=600)
        kernels = d.emulated(kernels) if d.emulator else ["env", "TRITON_INTERPRET=1", *kernels]
    # All that the other two choose needs a GPU: a rehearsal sees that it is collected, and skips by itself.
    return [
        Stage("kernel tests", kernels, 70, needs=("triton",), group="tests"),
        Stage("CUDA tests", cuda, 70, group="tests"),
        Stage("stack tests", stack, 70, needs=("pydantic",), group="tests"),
        Stage("probe", d.script("gpu_probe", "--device", d.device), 70, needs=("triton",), group="tests"),
    ]


def _rows(d: Drill, name: str, limit: float, whose: str, operations: Sequence[str], visits: int) -> Stage:
    """Rows of the suite; it begins no row when four fifths of its time are over."""
    command = [*PYTEST, str(BENCH), "--device", d.device, whose, "--results", str(d.rows)]
    command += [word for operation in operations for word in ("--operation", operation)]
    command += ["--visits", str(visits), "--deadline", str(0.8 * limit), "-p", "no:cacheprovider", "-q"]
    command += ["--benchmark-columns=median,iqr,rounds", "--benchmark-disable-gc"]
    if d.rehearsed:
        workloads = ["square-128", "digits-mlp-b8", *([] if d.short else ["mlp-bn-10-100"])]
        command += ["--quick", "--seconds", "0.02", "--longest", "1"]
        command += [word for workload in workloads for word in ("--workload", workload)]
        command[command.index("--deadline") + 1] = "40" if d.short else "60"
    else:
        command += ["--headline", "--seconds", "0.1", "--longest", "2"]
    return Stage(name, command, limit)


def _profile(d: Drill) -> Stage:
    command = d.script("gpu_profile", "--device", d.device, "--results", d.folder / "profile.csv")
    return Stage("profile", [*command, *(["--cases", "untracked", "training"] if d.short else [])], 40)


def _sanitizers(d: Drill) -> list[Stage]:
    """Both tools over both targets, side by side; in a rehearsal the targets alone."""
    targets = {target: d.script("gpu_target", target, "--device", d.device) for target in ("step", "count")}
    if d.rehearsed:
        return [Stage(f"target {name}", command, 55, group="sanitizers") for name, command in targets.items()]
    options = ["--error-exitcode", "9", "--report-api-errors", "no", "--print-limit", "20"]
    options += ["--target-processes", "application-only", "--launch-timeout", "60"]
    # racecheck counts a warp's barriers, and takes one that only some warps pass, as in CUDA C++, for one too many.
    watched = {"memcheck": gpu_names.kernels(), "racecheck": gpu_names.triton_kernels()}
    named = {
        tool: [word for name in names for word in ("--kernel-name", f"kne={name}")] for tool, names in watched.items()
    }
    return [
        Stage(
            f"{tool} {name}", ["compute-sanitizer", "--tool", tool, *options, *names, *command], 55, group="sanitizers"
        )
        for name, command in targets.items()
        for tool, names in named.items()
    ]


def _throughput(d: Drill) -> list[object]:
    turns = ["--turns", 1, "--seconds", 0.5 if d.rehearsed else 4.0, "--results", d.rows]
    return ["--device", d.device, "--workload", "digits-mlp-10-100-b16", *turns]


def _truth(d: Drill) -> list[object]:
    jobs = max(1, min(14, len(os.sched_getaffinity(0)) - 2))
    size = ["--matrices", 1000, "--largest", 1024, "--tail", 1, "--jobs", jobs]
    if d.rehearsed:
        size = ["--matrices", 60, "--largest", 64, "--jobs", 2]
    return [*size, "--device", d.device, "--results", d.folder / "truth.csv"]


def _reproduction(d: Drill) -> list[object]:
    given: list[object] = ["--device", d.device, "--folder", d.scratch / "reproduction", "--results", d.folder]
    return [*given, "--carry", d.carry, *(["--rehearse"] if d.rehearsed else [])]
