"""An environment that has a wheel of fastrank and what its metadata ask for, and nothing else of this one."""

from __future__ import annotations

import subprocess
import sys
import venv
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement


def clean_environment(folder: Path, wheel: Path, extra: str = "") -> Path:
    """Make an environment with the wheel, and with one of its extras if that is named; its folder ``bin``.

    pip installs the wheel, without a network. What it requires is linked from this environment, where all extras are:
    so the test is of the metadata, and not of a package index.
    """
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in required(wheel, extra):
        link(metadata.distribution(name), site)
    return folder / "bin"


def required(wheel: Path, extra: str) -> set[str]:
    """Names of all that a wheel of fastrank requires, and of all that these require in turn, as pip would find it."""
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        own = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [("fastrank", extra)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        for requirement in map(Requirement, own if name == "fastrank" else metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                waiting += [(requirement.name, each) for each in ("", *requirement.extras)]
        found.add(name)
    return found - {"fastrank"}


def link(package: metadata.Distribution, site: Path) -> None:
    """Link the modules and the metadata of a package that is installed here into another environment."""
    tops = {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        if not (site / top).exists():
            (site / top).symlink_to(package.locate_file(top))
