"""Where prepared data sets lie, what they may be called, and the command that prepares one."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from .catalogue import CATALOGUE
from .info import DataError

SUFFIX = ".safetensors"
BUILT_IN = "digits"  # the one set that needs no preparing
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def cache_folder(folder: Path | None = None) -> Path:
    """``folder``, else ``$FASTRANK_DATA``, else ``$XDG_CACHE_HOME/fastrank/data``, else ``~/.cache/fastrank/data``."""
    if folder is not None:
        return folder.expanduser().absolute()
    if own := os.environ.get("FASTRANK_DATA"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fastrank" / "data"


def file_of(name: str, folder: Path | None = None) -> Path:
    """The file of a data set, which need not be there. Raises DataError for what cannot be a name."""
    if not _NAME.fullmatch(name):
        raise DataError(
            f"{name!r} cannot be a data set's name: letters, digits, '.', '_' and '-', the first a letter or a digit; "
            "give one with --name when preparing it"
        )
    return cache_folder(folder) / f"{name}{SUFFIX}"


def prepared(folder: Path | None = None) -> list[str]:
    """The names of the data sets in the cache folder, sorted."""
    paths = cache_folder(folder).glob(f"*{SUFFIX}")
    return sorted(path.name.removesuffix(SUFFIX) for path in paths if not path.name.startswith("."))


def command(name: str, source: str | None = None, options: Sequence[str] = ()) -> str:
    """The command that prepares a data set: as before where ``source`` and ``options`` are known, else anew."""
    if name in CATALOGUE and source in (None, CATALOGUE[name].hub_id):
        return shlex.join(["fastrank", "data", "prepare", name, *options])
    start = "FOLDER_OR_HUB_ID" if source is None else source
    return shlex.join(["fastrank", "data", "prepare", start, "--name", name, *options])
