"""Hook of mkdocs: what stands in the repository beside docs/ is shown by the site too, where a page links to it.

A link is written as it works in the repository, such as `../kernels/count/gram.py`. Here a page of the site is made of
each such file (sources with their colours, notebooks with their outputs, Markdown as it is), pictures and reports are
copied, and the links are led there. Of a folder it is its README, or its report; a folder without either is only named.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))  # which mkdocs does for a hook no longer when pages are made
import notebooks

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(\s*([^)\s#]+)(#[^)\s]*)?\s*\)")
LANGUAGES = {".py": "python", ".toml": "toml", ".cu": "cuda", ".cuh": "cuda", ".csv": "text", "": "text"}
COPIED = {".png", ".svg", ".html", ".npz", ".csv"}
PAGES = "repository"
"""Folder of the site that has what does not stand in docs/."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to, and what that links to."""
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    seen: set[Path] = set()
    while waiting:
        page = waiting.pop()
        text = notebooks.text(page) if page.suffix == ".ipynb" else page.read_text()
        for _, target, _ in LINK.findall(text):
            found = beside(page, target)
            if found and found not in seen:
                seen.add(found)
                if found.suffix in (".md", ".ipynb"):
                    waiting.append(found)
                for file in made(found, config):
                    files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Lead a page's links to what was added."""
    if page.file.src_uri.startswith(PAGES):
        return markdown  # they are led there when it is made
    return led(markdown, Path(page.file.abs_src_path), page.file.src_uri)


def beside(page: Path, target: str) -> Path | None:
    """What a link of a page leads to, if that is a file of the repository outside of docs/."""
    if re.match(r"[a-z]+:|/", target):
        return None
    path = Path(posixpath.normpath(page.parent / target))
    if path.is_dir():
        path = next((path / name for name in ("README.md", "report.html") if (path / name).exists()), path)
    ours = path.is_relative_to(ROOT / "docs") and not path.is_relative_to(ROOT / "docs" / "tools")
    inside = path.is_relative_to(ROOT) and not ours
    return path if inside and path.is_file() else None


def uri(path: Path) -> str:
    """The name of a file within the site."""
    name = f"{PAGES}/{path.relative_to(ROOT).as_posix()}"
    if path.name == "README.md":
        return name
    return name.removesuffix(".md") + ("" if path.suffix in COPIED else ".md")


def led(text: str, page: Path, source: str) -> str:
    """The text of a page, whose name within the site is `source`, with links to what the site has."""

    def lead(match: re.Match[str]) -> str:
        shown, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        if re.match(r"[a-z]+:|/", target):
            return match.group(0)
        path = Path(posixpath.normpath(page.parent / target))
        found = beside(page, target)
        if found:
            return f"{shown}({posixpath.relpath(uri(found), posixpath.dirname(source))}{anchor})"
        if path.is_relative_to(ROOT / "docs") and path.is_file():
            place = path.relative_to(ROOT / "docs").as_posix()
            return f"{shown}({posixpath.relpath(place, posixpath.dirname(source))}{anchor})"
        return shown[1:-1] if path.is_dir() else match.group(0)

    return LINK.sub(lead, text)


def made(path: Path, config: MkDocsConfig) -> list[File]:
    """The files of the site that show a file of the repository."""
    name = path.relative_to(ROOT).as_posix()
    if path.suffix in COPIED:
        return [File.generated(config, uri(path), abs_src_path=str(path))]
    pictures: dict[str, bytes] = {}
    if path.suffix == ".md":
        text = path.read_text()
    elif path.suffix == ".ipynb":
        text = notebooks.text(path, pictures)
    else:
        code = path.read_text()
        text = f"# `{name}`\n\n``````{LANGUAGES.get(path.suffix, 'text')}\n{code}\n``````\n"
    files = [File.generated(config, uri(path), content=led(text, path, uri(path)))]
    files += [
        File.generated(config, f"{posixpath.dirname(uri(path))}/{picture}", content=content)
        for picture, content in pictures.items()
    ]
    for file in files:
        file.inclusion = file.inclusion.NOT_IN_NAV
    return files
