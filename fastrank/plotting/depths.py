"""The picture of an analysis: where it may be written, which is known before there is anything to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def check_picture(path: Path) -> None:
    """Raise what would keep `draw_depths` from writing `path`: ValueError for its format or folder, ImportError."""
    try:
        from .figures import SUFFIXES
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        needed = f"{path}: to draw it, {name} is needed: pip install 'fastrank[plot]'"
        raise ModuleNotFoundError(needed, name=name) from error
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a figure is a file of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")


def draw_depths(
    path: Path, table: pd.DataFrame, kinds: Sequence[str], spectra: Sequence[Sequence[float] | None]
) -> None:
    """Write the picture; for the arguments see `figures.save_depths`."""
    from .figures import save_depths

    save_depths(path, table, kinds, spectra)
