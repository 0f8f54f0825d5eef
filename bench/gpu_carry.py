"""Gathers what a CUDA machine without network lacks: wheels of a few packages, the images of CIFAR-10, the commit.

    python bench/gpu_carry.py [--data FOLDER] [--folder .carry] [--python 3.12]

Wheels are those of constraints.txt. Tree, wheels and data together are to stay below 64 MiB; the last line says what
they come to.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = (
    "pydantic",
    "pydantic_core",
    "annotated-types",
    "typing-inspection",
    "typing_extensions",
    "datasets",
    "dill",
    "multiprocess",
    "xxhash",
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64",
             "manylinux1_x86_64")  # fmt: skip
MOST_BYTES = 64 * 2**20


def pins() -> list[str]:
    """The wheels, with their versions."""
    named = {name.replace("_", "-").lower() for name in WHEELS}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line.partition("==")[0].replace("_", "-").lower() in named]


def download(folder: Path, python: str) -> None:
    options = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    options += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", *options, "-d", str(folder), *pins()], check=True
    )


def size_of_tree() -> int:
    """Bytes of all files that git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sum(path.stat().st_size for name in listed if name and (path := ROOT / name).is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10's Parquet files, as Hugging Face has them")
    parser.add_argument("--folder", type=Path, default=ROOT / ".carry")
    parser.add_argument("--python", default="3.12", help="version there")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    download(options.folder, options.python)
    if options.data:
        (options.folder / "cifar10").mkdir()
        for path in sorted(options.data.glob("*.parquet")):
            shutil.copyfile(path, options.folder / "cifar10" / path.name)
    carried = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    tree = size_of_tree()
    what = f"{len(list(options.folder.glob('*.whl')))} wheels{', CIFAR-10' if options.data else ''}"
    together = f"with the tree {(carried + tree) / 2**20:.1f} of {MOST_BYTES >> 20} MiB"
    print(f"{what}: {carried / 2**20:.1f} MiB; {together}")
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    (options.folder / "commit").write_text(commit.stdout)  # last: where it is, all else is
    return carried + tree > MOST_BYTES


if __name__ == "__main__":
    sys.exit(main())
