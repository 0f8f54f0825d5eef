"""Turns encoded images into one array of pixels. All must have one size and one kind; an error names the row."""

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .info import DataError

if TYPE_CHECKING:
    from PIL import Image

CHANNELS = {"L": 1, "RGB": 3}  # Pillow's names of the kinds that are kept as they are
_CONVERTIBLE = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_WITH_ALPHA = {"LA", "PA", "RGBA"}
_CHUNK = 1000


@dataclass(frozen=True)
class Look:
    """What every image is made to look like.

    Attributes:
        size: side in pixels of a square. The shorter side is scaled to it, and the middle kept. None: as the image is.
        mode: ``RGB`` or ``L`` (grey); transparent pixels are laid on black. None: as the image is.
    """

    size: int | None = None
    mode: str | None = None


class Decoder:
    """Decodes the parts of one data set; the first image says what all others have to look like."""

    def __init__(self, place: str, look: Look) -> None:
        self.place, self.look = place, look
        self._first: tuple[str, str, tuple[int, int]] | None = None  # where, mode, size

    def decode(self, split: str, rows: Any, column: str, advance: Callable[[int], None]) -> NDArray[np.uint8]:
        """The images of one split.

        Args:
            split: its name, for errors.
            rows: the split, as a data set of Hugging Face ``datasets``.
            column: name of the column that has the images.
            advance: is called with the number of images done since its last call.

        Returns (n, c, h, w) uint8. Raises DataError naming the rows that do not fit.
        """
        pixels: NDArray[np.uint8] | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on sizes and profiles: what matters is raised
            for done, value in enumerate(_values(rows, column)):
                image = self._read(f"{split} row {done}", value)
                if pixels is None:
                    pixels = self._empty(len(rows), image)
                pixels[done] = np.asarray(image).reshape(*pixels.shape[2:], -1).transpose(2, 0, 1)
                if (done + 1) % _CHUNK == 0:
                    advance(_CHUNK)
        if pixels is None:
            raise DataError(f"{self.place}: the split {split} is empty")
        advance(len(rows) % _CHUNK)
        return pixels

    def _empty(self, count: int, image: "Image.Image") -> NDArray[np.uint8]:
        shape = (count, CHANNELS[image.mode], image.height, image.width)
        try:
            return np.empty(shape, dtype=np.uint8)
        except MemoryError:
            gigabytes = np.prod(shape, dtype=float) / 1e9
            raise DataError(
                f"{self.place}: {count} images of {image.width} x {image.height} need {gigabytes:.0f} GB of memory: "
                "make them smaller with --size N"
            ) from None

    def _read(self, where: str, value: Any) -> "Image.Image":
        from PIL import Image, ImageOps

        encoded = value if isinstance(value, dict) else {"bytes": value, "path": None}
        content: bytes | None = encoded["bytes"]
        path: str | None = encoded["path"]
        if content is None and path is None:
            raise DataError(f"{self.place}: {where} has no image: leave it out")
        where += f" ({path})" if path else ""
        try:
            image: Image.Image = Image.open(io.BytesIO(content) if content is not None else str(path))
            image.load()
        except Exception as error:  # Pillow's decoders raise nearly anything on broken bytes
            reason = "its bytes are no image" if type(error).__name__ == "UnidentifiedImageError" else str(error)
            raise DataError(f"{self.place}: {where} cannot be decoded: {reason}: leave it out, or mend it") from None
        if "exif" in image.info:
            image = ImageOps.exif_transpose(image)
        if self.look.mode is not None:
            image = self._convert(where, image, self.look.mode)
        if self.look.size is not None and image.mode in CHANNELS:
            square = (self.look.size, self.look.size)
            image = ImageOps.fit(image, square, Image.Resampling.BICUBIC)
        self._compare(where, image)
        return image

    def _convert(self, where: str, image: "Image.Image", mode: str) -> "Image.Image":
        from PIL import Image

        if image.mode not in _CONVERTIBLE:
            raise DataError(
                f"{self.place}: {where} has pixels of mode {image.mode}, which 8 bits cannot hold: save it as 8-bit"
            )
        if image.mode in _WITH_ALPHA or (image.mode == "P" and "transparency" in image.info):
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            image = Image.alpha_composite(black, image.convert("RGBA"))
        return image.convert(mode)

    def _compare(self, where: str, image: "Image.Image") -> None:
        if image.mode not in CHANNELS:
            remedy = "--rgb or --grey converts all images" if image.mode in _CONVERTIBLE else "save it as 8-bit"
            raise DataError(f"{self.place}: {where} has pixels of mode {image.mode}, not RGB or L (grey): {remedy}")
        if self._first is None:
            self._first = (where, image.mode, image.size)
        first, mode, size = self._first
        if image.mode != mode:
            raise DataError(
                f"{self.place}: {first} has pixels of mode {mode}, but {where} of mode {image.mode}: "
                "--rgb or --grey converts all images"
            )
        if image.size != size:
            raise DataError(
                f"{self.place}: {first} has {size[0]} x {size[1]} pixels, but {where} {image.width} x {image.height}: "
                "--size N makes all images N x N"
            )


def _values(rows: Any, column: str) -> Iterator[Any]:
    """The encoded images in order: bytes, or a mapping of ``bytes`` and ``path``, or None."""
    for table in rows.select_columns([column]).with_format("arrow").iter(batch_size=_CHUNK):
        yield from table[column].to_pylist()
