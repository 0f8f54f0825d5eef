"""Paths as they are given on the command line."""

import os
from pathlib import Path


def path_of(text: str) -> Path:
    """A path that may begin with ``~``, also where no shell sees it: ``--out=~/runs``."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (the other raises where there is no such user)


def cache_folder() -> Path:
    """Where files are kept that can be made again, such as the rows of an analysis that was interrupted."""
    return path_of(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fastrank"


def config_of(text: str) -> Path:
    """A path, or the name of a configuration that comes with the package, such as ``digits``."""
    ours = {config.stem: config for config in (Path(__file__).parents[1] / "configs").glob("*.toml")}
    path = path_of(text)
    return path if path.exists() else ours.get(text, path)
