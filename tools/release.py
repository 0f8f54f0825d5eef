"""Checks and builds a release, and uploads nothing: `python tools/release.py`, or `make release`.

The tree has to be clean; fastrank/__init__.py, the first section of CHANGELOG.md and CITATION.cff have to agree on the
version, and the latter two on the day; lint, types and tests have to pass. Then dist/ has an sdist and a wheel that
were looked at, build/release-notes.md the section of CHANGELOG.md, and what is left to do by hand is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from archives import build
from contents import ROOT

NEXT = """
What is left to do:
  git tag --annotate v{version} --message 'fastrank {version}' && git push origin v{version}
  python -m twine upload {names}
  a release on the code host for the tag: these files, and build/release-notes.md
  a new first section in CHANGELOG.md, the next version with '(unreleased)', and that version in fastrank/__init__.py
  and CITATION.cff"""


def version(root: Path) -> str:
    """The version, from where every other place has it."""
    source = (root / "fastrank" / "__init__.py").read_text()
    return re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)[0]  # type: ignore[no-any-return]


def newest(root: Path) -> tuple[str, str, str]:
    """Version, date and text of the first section of CHANGELOG.md."""
    text = (root / "CHANGELOG.md").read_text()
    section = re.search(r"^## (\S+) \(([^)\n]+)\)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return (section[1], section[2], section[3].strip()) if section else ("", "", "")


def problems(root: Path) -> list[str]:
    """What keeps the tree from being released; nothing, if it can be."""
    own, (changed, date, text) = version(root), newest(root)
    cited = dict(
        re.findall(r"^(version|date-released): \"?(.+?)\"?$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    )
    status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    found = [f"not committed: {line[3:]}" for line in status.stdout.splitlines()]
    if changed != own:
        found.append(
            f"CHANGELOG.md: its first section is of {changed or 'nothing'}, and fastrank/__init__.py has {own}"
        )
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        found.append(f"CHANGELOG.md: {changed} is '({date})': put the day of the release there, as in (2026-01-31)")
    if not text:
        found.append(f"CHANGELOG.md: the section of {changed} says nothing")
    if cited.get("version") != own:
        found.append(f"CITATION.cff: version is {cited.get('version')}, and fastrank/__init__.py has {own}")
    if cited.get("date-released") != date:
        found.append(f"CITATION.cff: date-released is {cited.get('date-released')}, and CHANGELOG.md has {date}")
    tags = subprocess.run(["git", "tag", "--list", f"v{own}"], cwd=root, capture_output=True, text=True, check=True)
    if tags.stdout.strip():
        found.append(f"the tag v{own} exists: {own} has been released")
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="go on whatever is found, and leave out the tests")
    rehearse = parser.parse_args().rehearse
    found = problems(ROOT)
    print("".join(f"{problem}\n" for problem in found), end="")
    if found and not rehearse:
        return 1
    if not rehearse:
        subprocess.run(["make", "lint", "types", "test"], cwd=ROOT, check=True)
    archives = build(ROOT / "dist")
    if find_spec("twine"):
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, archives)], check=True)
    else:
        print("twine is not installed: the README's form on a package index has not been checked")
    notes = ROOT / "build" / "release-notes.md"
    notes.parent.mkdir(exist_ok=True)
    notes.write_text(newest(ROOT)[2] + "\n")
    for archive in archives:
        print(f"{digest(archive)}  {archive.relative_to(ROOT)}")
    names = " ".join(str(archive.relative_to(ROOT)) for archive in archives)
    print(
        "A rehearsal: nothing here is to be released." if rehearse else NEXT.format(version=version(ROOT), names=names)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
