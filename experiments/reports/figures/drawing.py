"""A figure together with its words and its numbers, and the one way in which it becomes files."""

import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ...files import write_atomically


class NothingToDraw(Exception):
    """A figure has no data; the message says which, as a clause that can follow "because"."""


@dataclass(frozen=True)
class Drawing:
    """A picture, what to read in it, and the table it was drawn from."""

    caption: str
    figure: Figure
    data: pd.DataFrame


def save(name: str, drawing: Drawing, folder: Path) -> bytes:
    """Write `name.csv`, `name.png` and `name.svg` into `folder`; return the SVG.

    The same drawing gives the same bytes: neither date nor version of matplotlib is recorded. Call it inside
    `styled()`, because matplotlib reads some settings only now.
    """
    png = io.BytesIO()
    drawing.figure.savefig(png, format="png", metadata={"Software": None})
    drawing.figure.set_layout_engine("none")  # places are found; finding them again takes as long as drawing
    vector = svg(drawing.figure)
    write_atomically(folder / f"{name}.csv", drawing.data.to_csv(index=False).encode())
    write_atomically(folder / f"{name}.png", png.getvalue())
    write_atomically(folder / f"{name}.svg", vector)
    return vector


def svg(figure: Figure) -> bytes:
    """The picture as SVG, without date and version of matplotlib. Call it inside `styled()`."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def remove(name: str, folder: Path) -> None:
    """Remove what an earlier `save` wrote under this name."""
    for ending in ("csv", "png", "svg"):
        (folder / f"{name}.{ending}").unlink(missing_ok=True)
