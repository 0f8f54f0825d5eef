"""Where a sweep's numbers come from: the commit of this code and the versions of the packages that it uses."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("fastrank", "torch", "numpy", "numba", "scikit-learn", "triton", "cupy-cuda13x", "cupy-cuda12x")


def commit() -> str:
    """The commit that this code is checked out at; ``unknown`` where it is not in a checkout of its own.

    ``+dirty`` follows the commit where files differ from it.
    """
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name) is None:  # installed inside somebody else's repository
        return "unknown"
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", ":/")
    return "unknown" if head is None else head + ("+dirty" if changes else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Versions of Python, of the machine's system and of the packages that are installed."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
