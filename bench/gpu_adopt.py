"""Brings what a CUDA machine has sent back into bench/results, and draws figures and tables anew.

    python bench/gpu_adopt.py FOLDER [FOLDER ...]

FOLDER is what RESULTS was there. Rows replace those of the same operation, workload, provider and dtype; a file of the
folder `<device>/` replaces the one of its name, but that tables of stages and logs are added to.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import figures
import results
import tables

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
GROWING = ("stages.csv", "log.txt")


def adopt(folder: Path, into: Path = RESULTS) -> list[Path]:
    """The files of rows that have changed."""
    changed = []
    for path in sorted(folder.glob("*.csv")):
        results.save(into / path.name, results.load(path))
        changed.append(into / path.name)
    for path in sorted(folder.glob("*/*")):
        to = into / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.name in GROWING and to.exists():
            text = path.read_text().split("\n", 1)[1] if path.suffix == ".csv" else path.read_text()
            with to.open("a") as file:
                file.write(text)
        else:
            shutil.copyfile(path, to)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    for folder in parser.parse_args().folders:
        for path in adopt(folder):
            print(path.name, *(figure.name for figure in figures.draw(path)))
    tables.write_all()


if __name__ == "__main__":
    main()
