"""Seal: a checksum of a Parquet file's footer, kept in the footer itself.

The footer says where every column is, and what it is called. Parquet has checksums for the pages of numbers, which are
written and verified, and none for the footer: a flipped bit there could give a matrix the numbers of another one, or
leave out some of its rows. The seal is a pair of key and value among those that any Parquet file may have, so that
other programs read the file as before. A file without a seal, of another program or an earlier version, is read as is.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import BinaryIO

KEY, BLANK = "fastrank.footer", "crc32:00000000"
"""Key of the seal, and what stands for its value while the checksum is computed."""
SEAL = re.compile(re.escape(KEY.encode()) + rb".{1,8}?crc32:([0-9a-f]{8})", re.DOTALL)
TAIL = 8  # bytes after the footer: its length, and PAR1


class Broken(ValueError):
    """The footer is not the one that was written."""


def seal(file: BinaryIO) -> None:
    """Put the checksum in the place of `BLANK` in the footer of a complete Parquet file, which is open to be written
    and read."""
    footer, start = _footer(file)
    file.seek(start + footer.rindex(BLANK.encode()))
    file.write(BLANK.replace("0" * 8, _checksum(footer)).encode())


def verify(path: Path) -> None:
    """Raise `Broken` if the file is sealed, and its footer is not as it was written. OSError: it cannot be read."""
    with path.open("rb") as file:
        footer, _ = _footer(file)
    # The last one: names of matrices may stand before it, in the statistics, and be anything.
    for found in list(SEAL.finditer(footer))[-1:]:
        blank = footer[: found.start(1)] + b"0" * 8 + footer[found.end(1) :]
        if _checksum(blank).encode() != found[1]:
            raise Broken("its footer is not what was written")


def _checksum(footer: bytes) -> str:
    return f"{zlib.crc32(footer):08x}"


def _footer(file: BinaryIO) -> tuple[bytes, int]:
    """The footer, and where it begins; nothing where the file is too short to have one."""
    size = file.seek(0, 2)
    file.seek(max(size - TAIL, 0))
    length = int.from_bytes(file.read(4), "little")
    start = size - TAIL - length
    if start < 0:
        return b"", 0
    file.seek(start)
    return file.read(length), start
