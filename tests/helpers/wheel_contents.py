"""Fails unless a wheel has what the packages at the top of the tree have: `python wheel_contents.py WHEEL`."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"fastrank": "fastrank", "kernels": "fastrank/kernels", "experiments": "fastrank/experiments"}


def expected() -> list[str]:
    found = []
    for folder, installed in PACKAGES.items():
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT / folder)
            linked = any((ROOT / folder / part).is_symlink() for part in inside.parts[:1])
            page = path.suffix in (".html", ".css") and inside.parts[0] == "reports"
            source = path.suffix in (".py", ".cu", ".cuh")
            if not linked and (source or path.name == "py.typed" or page):
                found.append(f"{installed}/{inside.as_posix()}")
    return sorted(found)


def main() -> int:
    (wheel,) = sys.argv[1:]
    packed = sorted(name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name)
    missing, surplus = sorted(set(expected()) - set(packed)), sorted(set(packed) - set(expected()))
    print(f"{wheel}: {len(packed)} files; missing: {missing or 'none'}; surplus: {surplus or 'none'}")
    return bool(missing or surplus or len(set(packed)) < len(packed))


if __name__ == "__main__":
    sys.exit(main())
