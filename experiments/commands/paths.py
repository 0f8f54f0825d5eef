"""Paths as they are given on the command line."""

import os
from pathlib import Path

from ..errors import UsageError


def path_of(text: str) -> Path:
    """A path that may begin with ``~``, also where no shell sees it: ``--out=~/runs``."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (the other raises where there is no such user)


def cache_folder() -> Path:
    """Where files are kept that can be made again, such as the rows of an analysis that was interrupted."""
    return path_of(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fastrank"


def config_of(text: str) -> Path:
    """A path, or the name of a configuration that comes with the package, such as ``digits``.

    Raises UsageError for what looks like a name, and is neither: it has those that there are.
    """
    ours = {config.stem: config for config in (Path(__file__).parents[1] / "configs").glob("*.toml")}
    path = path_of(text)
    if path.exists() or (text not in ours and text != path.stem):
        return path
    if text not in ours:
        raise UsageError(f"{text}: neither a file nor a configuration of fastrank's: {', '.join(sorted(ours))}")
    return ours[text]
