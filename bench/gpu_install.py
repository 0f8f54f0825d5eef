"""Makes this tree importable as fastrank on a machine without network, and unpacks the wheels that were carried along.

    python bench/gpu_install.py [FOLDER OF WHEELS]

Wheels go to build/carried. The tree is installed as `pip install --no-deps --no-build-isolation -e .` does; where that
fails (setuptools older than pyproject.toml asks for), build/links/fastrank is a link to it. The drill has both on
PYTHONPATH.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINKS, SITE = ROOT / "build" / "links", ROOT / "build" / "carried"
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]


def unpack(wheels: list[Path]) -> bool:
    """Into a folder of its own: nothing that the machine has is changed. False where they are for another Python."""
    shutil.rmtree(SITE, ignore_errors=True)
    options = ["--no-compile", "--no-cache-dir", "--target", str(SITE)]
    return not wheels or not subprocess.run([*PIP, *options, *map(str, wheels)]).returncode


def imported_from() -> str:
    """Where `import fastrank` leads, in a process of its own and from another folder; empty: nowhere."""
    script = "import fastrank, pathlib; print(pathlib.Path(fastrank.__file__).resolve().parents[1])"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, cwd="/")
    return done.stdout.strip()


def mend_links() -> None:
    """fastrank/kernels and fastrank/experiments are links: made anew where a copy of the tree has lost them."""
    for name in ("kernels", "experiments"):
        link = ROOT / "fastrank" / name
        if not link.is_dir():
            link.unlink(missing_ok=True)
            link.symlink_to(Path("..", name))


def link() -> None:
    """A folder with a link to the package, and as much metadata as tells its version."""
    shutil.rmtree(LINKS, ignore_errors=True)
    LINKS.mkdir(parents=True)
    (LINKS / "fastrank").symlink_to(ROOT / "fastrank")
    source = (ROOT / "fastrank" / "__init__.py").read_text()
    version = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)[0]
    metadata = LINKS / f"fastrank-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fastrank\nVersion: {version}\n")


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".carry"
    wheels = sorted(folder.glob("*.whl"))
    unpacked = unpack(wheels)
    mend_links()
    how = "was installed"
    if imported_from() != str(ROOT):
        how = "installed by pip"
        done = subprocess.run([*PIP, "--no-build-isolation", "--editable", str(ROOT)], capture_output=True, text=True)
        if done.returncode:
            print(done.stderr)
            link()
            how = "linked, for pip could not install it"
    if imported_from() != str(ROOT):
        print("fastrank cannot be imported from this tree")
        return 1
    # Stages that need what these would have brought are skipped by name: no reason to fail.
    print(f"fastrank {how}; {len(wheels)} wheels {'unpacked' if unpacked else 'that this Python cannot take'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
