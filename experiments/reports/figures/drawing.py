"""A figure together with its words and its numbers, and the one way in which it becomes files."""

import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

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
    """Write `name.csv`, `name.png` and `name.svg` into `folder`; return the picture that takes fewer bytes.

    The same drawing gives the same bytes: neither date nor version of matplotlib is recorded. Call it inside
    `styled()`, because matplotlib reads some settings only now.
    """
    pixels = png(drawing.figure)
    drawing.figure.set_layout_engine("none")  # places are found; finding them again takes as long as drawing
    vector = svg(drawing.figure)
    write_atomically(folder / f"{name}.csv", drawing.data.to_csv(index=False).encode())
    write_atomically(folder / f"{name}.png", pixels)
    write_atomically(folder / f"{name}.svg", vector)
    return min(vector, pixels, key=len)


def png(figure: Figure) -> bytes:
    """The picture as PNG in 256 colours, a third of the bytes of one in all colours. Call it inside `styled()`."""
    drawn, content = io.BytesIO(), io.BytesIO()
    uncompressed = {"compress_level": 0}  # it is read at once
    figure.savefig(drawn, format="png", metadata={"Software": None}, pil_kwargs=uncompressed)
    with Image.open(drawn) as picture:
        colours = picture.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    colours.save(content, format="png", optimize=True, dpi=picture.info.get("dpi"))
    return content.getvalue()


def svg(figure: Figure) -> bytes:
    """The picture as SVG, without date and version of matplotlib. Call it inside `styled()`."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def remove(name: str, folder: Path) -> None:
    """Remove what an earlier `save` wrote under this name."""
    for ending in ("csv", "png", "svg"):
        (folder / f"{name}.{ending}").unlink(missing_ok=True)
