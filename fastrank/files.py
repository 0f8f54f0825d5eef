"""Write files so that each is either complete or not there, whatever happens while it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the `with` block ends. A reader sees either the old file or the complete
    new one, even after a power cut.

    How: temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises:
        OSError: disk full, folder missing or read-only. After this or any other error in the block, what was there
            before is still there, and no temporary file is left. Where the folder itself cannot be synced, the new
            file is in its place, but may be lost in a power cut.
    """
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have what was written into a file, or the renames in a folder, on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
