"""Compiles every kernel for every architecture, without a GPU, and says what it needs there.

    python bench/aot.py [--kernels PATH ...] [--arch sm_90 ...] [--only-triton] [--no-sass] [--csv PATH]

For each launch configuration of each kernel of `kernels/` (see `fastrank.kernels.variant`) it prints registers and
stack of a thread, bytes of spill stores and loads, shared memory of a block (static and dynamic), theoretical
occupancy, and the tensor-core instructions of the binary with the PTX they came from. It exits with 1 and names the
offender on any spill, on what no block of the architecture can be launched with (the compiler does not refuse that), on
what does not compile, and on a kernel without a launch configuration: nothing is silently left out.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from aot_result import COLUMNS, HEADING, Result, judged, line, row
from architectures import ARCHITECTURES, Architecture
from cubin import Build

ROOT = Path(__file__).resolve().parents[1]
VARIANT = ROOT / "kernels" / "variant.py"


def sources(paths: list[Path]) -> list[Path]:
    """The files that may have kernels, among the named files and in the named folders."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise SystemExit(f"{path} does not exist")
        found = sorted((*path.rglob("*.py"), *path.rglob("*.cu"))) if path.is_dir() else [path]
        files += [file for file in found if file.name != "__init__.py" and file.resolve() != VARIANT]
    return files


def triton_results(file: Path, architectures: list[Architecture], sass: bool) -> Iterator[Result | str]:
    """Compiles a module's kernels: results as they come, and remarks about what is not compiled. sass: see `build`."""
    try:
        import triton_variants

        variants, missing = triton_variants.variants(triton_variants.load(file))
    except Exception as error:  # whatever it is, the other files are still to be looked at
        yield Result(file.stem, problem=f"cannot be imported: {type(error).__name__}: {error}")
        return
    for name in missing:
        yield Result(f"{file.stem}.{name}", problem="has no variant: the module's variants() yields none of it")
    for variant in variants:
        kernel = f"{file.stem}.{triton_variants.jit(variant.kernel).__name__}"
        if unknown := set(variant.architectures) - set(ARCHITECTURES):
            yield Result(kernel, str(variant), problem=f"there is no architecture {', '.join(sorted(unknown))}")
            continue
        for architecture in architectures:
            if variant.architectures and architecture.name not in variant.architectures:
                yield f"not launched on {architecture.name}: {kernel}  {variant}"
                continue
            try:
                build = triton_variants.build(variant, architecture.name, sass)
            except Exception as error:
                problem = f"does not compile: {type(error).__name__}: {error}"
                yield Result(kernel, str(variant), architecture.name, problem=problem)
            else:
                yield judged(kernel, str(variant), architecture, build)


def cuda_results(file: Path, architectures: list[Architecture]) -> Iterator[Result | str]:
    """The same for a CUDA C++ file."""
    if shutil.which("nvcc") is None:
        yield f"skipped: {file.name} (there is no nvcc)"
        return
    import cuda_variants

    missing: set[str] = set()
    builds: dict[str, dict[cuda_variants.Launch, Build]] = {}
    for architecture in architectures:
        try:
            builds[architecture.name], uncovered = cuda_variants.builds(file, architecture.name)
            missing |= uncovered
        except ValueError as error:
            yield Result(file.name, architecture=architecture.name, problem=f"does not compile: {error}")
    for launch in cuda_variants.launches(file) if builds else ():
        kernel = f"{file.stem}.{launch.kernel}"
        for name, build in builds.items():
            if launch in build:
                yield judged(kernel, str(launch), ARCHITECTURES[name], build[launch])
            else:
                yield f"not launched on {name}: {kernel}  {launch}"
    for name in sorted(missing):
        yield Result(f"{file.stem}.{name}", problem=f"has no launch: no comment in {file.name} names one of it")


def show(results: Iterator[Result | str]) -> Iterator[Result]:
    """Prints results and remarks as they come, and hands the results on."""
    above = None
    for result in results:
        if isinstance(result, str):
            print(result, flush=True)
            continue
        if above is None:
            print(HEADING)
        if above != (above := (result.kernel, result.configuration)):
            print(*filter(None, above), sep="  ")
        if result.build is not None:
            print(line(ARCHITECTURES[result.architecture], result.build), flush=True)
        if result.problem:
            print(f"  {result.architecture:8} FAILED: {result.problem}", flush=True)
        yield result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=Path, nargs="+", default=[ROOT / "kernels"], help="folders or files")
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--only-triton", action="store_true", help="leave out CUDA C++, which no Triton compiles")
    parser.add_argument("--no-sass", action="store_true", help="do not disassemble what Triton compiles: faster")
    parser.add_argument("--csv", type=Path, help="where the table is written as well")
    arguments = parser.parse_args()
    # Compiled, not interpreted, and into build/: both has to be said before Triton is imported.
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_CACHE_DIR", str(ROOT / "build" / "triton-cache"))

    files = [file for file in sources(arguments.kernels) if file.suffix == ".py" or not arguments.only_triton]
    if not files:
        print("no kernels")
        return 0
    architectures = [ARCHITECTURES[name] for name in arguments.arch]
    compile_file = {".py": partial(triton_results, sass=not arguments.no_sass), ".cu": cuda_results}
    results = list(show(r for file in files for r in compile_file[file.suffix](file, architectures)))
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(map(row, results))
    failed = [result for result in results if result.problem]
    compilers = sorted({result.build.compiler for result in results if result.build})
    if results:
        print(f"{', '.join(compilers)}: {len(results) - len(failed)} of {len(results)} accepted")
    else:
        print("no kernels to compile")
    for result in failed:
        print(f"FAILED {result}: {result.problem.splitlines()[0]}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
