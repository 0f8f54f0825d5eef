"""The drill on a CUDA machine: what to learn in a few minutes, in the order of what it decides.

    python bench/gpu.py check | measure | reproduce [--results DIR] [--carry DIR]
    python bench/gpu.py check | measure | reproduce --rehearse [--short] [--emulator DIR]

`bench/gpu.md` says which comes first and what each number decides. Every stage has a limit of its own (`stages.py`).
What is measured is written at once: rows to `DIR/<device>.csv`, all else into the folder `DIR/<device>/`, at most eight
files in all. A rehearsal runs every stage on a machine without a GPU: the kernels, where they are asked for, as PTX in
an emulator or above a driver that launches nothing, if there is one (`--emulator`); the rest on the CPU, and little of
it. `--short` leaves out what takes longest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import signal
import subprocess
import sys
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gpu_plan
import gpu_tables
import results
import stages
from gpu_plan import ROOT, Drill

MOST_FILES, MOST_BYTES = 8, 16 * 2**20
"""Of the results: what a lent machine sends back."""


def drill_of(options: argparse.Namespace) -> Drill:
    """The machine, and where everything is."""
    name = f"rehearsal-{_rows_of('cpu')}" if options.rehearse else _rows_of("cuda")
    rows = options.results.absolute() / name
    drill = Drill(
        rows=rows,
        folder=rows.with_suffix(""),
        carry=options.carry.absolute(),
        rehearsed=options.rehearse,
        short=options.short,
        emulator=options.emulator.absolute() if options.emulator and options.emulator.is_dir() else None,
    )
    marker = drill.scratch / "begun"
    begun = not drill.rehearsed and marker.exists() and marker.read_text() == machine(drill)
    return replace(drill, begun=begun)


def machine(drill: Drill) -> str:
    """What has to be the same for a command to go on from what an earlier one has installed and compiled.

    The device and this very start of the machine; the Python; and what was compiled and linked.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text().strip() if boot.exists() else ""
    tree = hashlib.sha256()
    for path in sorted((ROOT / "kernels").rglob("*")):
        if path.suffix in (".py", ".cu", ".cuh"):
            tree.update(path.read_bytes())
    linked = sorted(path.name for path in (ROOT / "fastrank").iterdir() if not path.name.startswith("__pycache__"))
    wheels = sorted(path.name for path in drill.carry.glob("*.whl"))
    tree.update("\n".join(linked + wheels).encode())
    return "\n".join([drill.rows.name, platform.node(), started, sys.executable, tree.hexdigest(), ""])


def remember(drill: Drill, outcomes: Sequence[stages.Outcome]) -> None:
    """Leaves a mark where all that every command begins with has ended well: the next one need not repeat it."""
    well = {outcome.stage.name for outcome in outcomes if outcome.status == "ok"}
    if not drill.rehearsed and well.issuperset(gpu_plan.BEGINNING):
        (drill.scratch / "begun").write_text(machine(drill))


def tidy(results: Path) -> None:
    """Removes files that a stage was writing when it was stopped."""
    for path in results.rglob("*.part"):
        path.unlink()


def _rows_of(device: str) -> str:
    """Name of a device's file of rows; asked of another process, for this one is to leave the device alone."""
    script = f"import environment, torch; print(environment.results_file(torch.device({device!r})).name)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "bench", capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [""]
        raise SystemExit(f"no {device} device is here ({said[-1]}); --rehearse runs every stage without one")
    return done.stdout.strip()


def environment_of(drill: Drill) -> dict[str, str]:
    """Of every stage: what is installed there comes first, and nothing waits in a buffer when a limit strikes."""
    paths = [str(ROOT / "build" / "links"), str(ROOT / "build" / "carried"), str(ROOT / "bench")]
    before = os.environ.get("PYTHONPATH")
    commit = drill.carry / "commit"  # of a copy of the tree that has no repository
    known = {"FASTRANK_COMMIT": commit.read_text().strip()} if commit.exists() else {}
    return (
        os.environ
        | known
        | {
            "PYTHONPATH": os.pathsep.join([*paths, *([before] if before else [])]),
            "PYTHONUNBUFFERED": "1",
            "FASTRANK_DATA": str(drill.scratch / "data"),
            "MPLBACKEND": "Agg",
        }
    )


def within_limits(results: Path) -> list[str]:
    """What a lent machine would not send back of the results: too many files, too large ones, too deep ones."""
    files = [path for path in results.rglob("*") if path.is_file()]
    complaints = [f"{path.name} has {path.stat().st_size} bytes" for path in files if path.stat().st_size > MOST_BYTES]
    complaints += [f"{path.name} is too deep" for path in files if len(path.relative_to(results).parts) > 3]
    return complaints + ([f"{len(files)} files"] if len(files) > MOST_FILES else [])


def missing(drill: Drill, name: str) -> list[str]:
    """What a command has not left behind though all its stages ended well: files, or a single measured row."""
    lacking = [file for file in gpu_plan.FILES[name] if not (drill.folder / file).exists()]
    timed = [row for row in results.load(drill.rows) if results.time_ms(row) and row["operation"] != "roof"]
    return lacking + ([] if timed or name == "reproduce" else ["measured rows"])


def _end(number: int, frame: types.FrameType | None) -> None:
    """Stopped from outside: the stage that runs ends as well, and what came before it is written already."""
    stages.stop()
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drill", choices=gpu_plan.PLANS)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="default: bench/results")
    parser.add_argument("--carry", type=Path, default=ROOT / ".carry", help="wheels and data (default: .carry)")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    parser.add_argument("--short", action="store_true", help="of a rehearsal: as little as shows that it runs")
    parser.add_argument("--emulator", type=Path, help="folder of the PTX emulator, for a rehearsal")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    drill = drill_of(options)
    drill.scratch.mkdir(parents=True, exist_ok=True)
    planned = gpu_plan.plan(options.drill, drill)
    print(f"{options.drill}: {len(planned)} stages, at most {gpu_plan.seconds(planned):.0f} s", flush=True)
    environment = environment_of(drill)
    first = sum(stage.name in gpu_plan.BEGINNING or stage in gpu_plan.PLANTED for stage in planned)
    outcomes = stages.run(options.drill, planned[:first], drill.folder, environment)
    remember(drill, outcomes)  # now, for what follows may be stopped from outside
    outcomes += stages.run(options.drill, planned[first:], drill.folder, environment)
    tidy(options.results)
    for line in gpu_tables.summary(drill, outcomes):
        print(line)
    if not options.rehearse and (complaints := within_limits(options.results)):
        print("more than comes back:", "; ".join(complaints))
    ends = {stage.name: (end,) for stage, end in zip(gpu_plan.PLANTED, gpu_plan.PLANTED_ENDS, strict=True)}
    right = {outcome.stage.name: ends.get(outcome.stage.name, ("ok", "skipped")) for outcome in outcomes}
    bad = [name for outcome in outcomes if outcome.status not in right[name := outcome.stage.name]]
    if lacking := missing(drill, options.drill):
        print("there is no", ", no ".join(lacking))
    print(f"{options.drill}: {'failed: ' + ', '.join(bad) if bad else 'all stages ended well'}")
    return bool(bad or lacking)


if __name__ == "__main__":
    sys.exit(main())
