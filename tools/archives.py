"""Builds an sdist and a wheel, and refuses them unless they hold what users need: `python tools/archives.py OUT`.

The wheel is built from the sdist, in an environment of its own, and compared with one that is built from the tree: the
sdist is enough to build from. Both are made of a copy of the files that git knows or does not ignore, so that nothing
that an earlier build has left behind gets into them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from contents import ROOT, sdist_problems, wheel_problems, wheels_differ

SDIST = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
WHEEL = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def copy_tree(folder: Path) -> Path:
    """Copy the files of the tree as they are now, changes that are not committed as well; links stay links."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists() or (ROOT / name).is_symlink():  # and not removed since
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def call(script: str, tree: Path, out: Path) -> Path:
    """Run a hook of the build backend in a tree, by the setuptools of this environment; the archive that it makes."""
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, "-c", script, str(out)], cwd=tree, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    (archive,) = out.iterdir()
    return archive


def build_isolated(sdist: Path, out: Path) -> Path:
    """The wheel that pip builds of an sdist, with the newest setuptools that pyproject.toml admits and nothing else."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(sdist)]
    subprocess.run(pip, check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


def build(out: Path) -> tuple[Path, Path]:
    """Put sdist and wheel into the folder ``out``, which is made anew; exit with what is wrong with them."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = copy_tree(Path(scratch, "tree"))
        sdist = call(SDIST, tree, Path(scratch, "sdist"))
        wheel = build_isolated(sdist, Path(scratch, "isolated"))
        direct = call(WHEEL, tree, Path(scratch, "direct"))
        problems = [f"{sdist.name}: {problem}" for problem in sdist_problems(sdist)]
        problems += [f"{wheel.name}: {problem}" for problem in wheel_problems(wheel)]
        differ = [
            name for name in wheels_differ(wheel, direct) if ".dist-info/" not in name
        ]  # two setuptools' metadata
        problems += [f"{wheel.name}: {name} is another in a wheel that is built from the tree" for name in differ]
        if problems:
            sys.exit("\n".join(problems))
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return Path(shutil.copy2(sdist, out)), Path(shutil.copy2(wheel, out))


if __name__ == "__main__":
    for made in build(Path(sys.argv[1])):
        print(f"{made}: {made.stat().st_size:,} bytes, as it should be")
