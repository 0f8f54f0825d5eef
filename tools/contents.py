"""What an archive for users has to hold: the packages' files once, and nothing of the tests."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"fastrank": "fastrank", "kernels": "fastrank/kernels", "experiments": "fastrank/experiments"}
"""Folders at the top of the tree, and where they are installed: two links in fastrank/ lead to the other two."""

SOURCES = {".py", ".cu", ".cuh", ".typed"}
DATA = {"reports": {".html", ".css"}, "configs": {".toml"}}
"""Rooms of experiments/ that hold more than code, and what."""

METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
BESIDE = {
    *("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "SECURITY.md"),
    *("pyproject.toml", "setup.cfg", "MANIFEST.in", "PKG-INFO"),
}
"""Files of an sdist that stand beside the packages."""


def packaged(root: Path = ROOT) -> set[str]:
    """Paths, as they are installed, of all files that belong to the packages."""
    found = set()
    for folder, installed in PACKAGES.items():
        for path in (root / folder).rglob("*"):
            inside = path.relative_to(root / folder)
            linked = (root / folder / inside.parts[0]).is_symlink()
            data = folder == "experiments" and path.suffix in DATA.get(inside.parts[0], ())
            if path.is_file() and not linked and (path.suffix in SOURCES or path.name == "py.typed" or data):
                found.add(f"{installed}/{inside.as_posix()}")
    return found


def wheel_problems(wheel: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with a wheel's contents; nothing, if it is as it should be."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        links = [item.filename for item in archive.infolist() if item.external_attr >> 28 == 0o12]
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    return _problems(names, packaged(root) | {f"{info}/{name}" for name in METADATA}, links)


def sdist_problems(sdist: Path, root: Path = ROOT) -> list[str]:
    """The same of an sdist. What setuptools notes for itself, fastrank.egg-info, is left out."""
    with tarfile.open(sdist) as archive:
        members = [member for member in archive if not member.isdir()]
    top = sdist.name.removesuffix(".tar.gz") + "/"
    names = [member.name.removeprefix(top) for member in members]
    links = [member.name for member in members if not member.isreg()]
    noted = [name for name in names if not name.startswith("fastrank.egg-info/")]
    return _problems(noted, packaged(root) | BESIDE, links)


def _problems(names: list[str], expected: set[str], links: list[str]) -> list[str]:
    found = {
        "is missing": expected - set(names),
        "does not belong there": set(names) - expected,
        "is there twice": {name for name in names if names.count(name) > 1},
        "is a link": set(links),
    }
    return [f"{name} {what}" for what, those in found.items() for name in sorted(those)]


def wheels_differ(one: Path, other: Path) -> list[str]:
    """Names of the files in which two wheels differ, byte by byte."""
    with zipfile.ZipFile(one) as a, zipfile.ZipFile(other) as b:
        first, second = ({name: archive.read(name) for name in archive.namelist()} for archive in (a, b))
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
