"""Zip archives, as `torch.save` and `numpy.savez` write them: checked before anything in them is used."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from .errors import AnalyzeError

UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)
"""What reading a damaged archive raises: RuntimeError for one that seems to be encrypted, OSError for an offset before
its beginning."""
LARGE, RATIO = 2**28, 200
"""An archive is refused if it unpacks to more than LARGE bytes and to more than RATIO times its own size: trained
weights do not compress to a tenth."""
BLOCK = 2**20


def names_in(path: Path) -> list[str]:
    """The names of an archive's members; none if the file is no archive.

    Every member is compared with its checksum, which `torch.load` does not do: a flipped bit would be another number.
    `torch.serialization.set_crc32_options(False)` has all checksums written as zero; there is then nothing to compare.

    Raises AnalyzeError for an archive that is damaged, or is made to fill the memory.
    """
    try:
        if not zipfile.is_zipfile(path):
            return []
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            unpacked, stored = sum(member.file_size for member in members), path.stat().st_size
            if unpacked > max(LARGE, RATIO * stored):
                raise AnalyzeError(f"{path}: would unpack {stored} bytes to {unpacked}: no checkpoint is so empty")
            for member in members if any(member.CRC for member in members) else ():
                with archive.open(member) as content:
                    while content.read(BLOCK):
                        pass
    except AnalyzeError:
        raise
    except UNREADABLE as error:
        raise AnalyzeError(f"{path}: is damaged, or not whole: {error}") from error
    return [member.filename for member in members]
