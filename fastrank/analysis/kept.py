"""Kept: the rows of an analysis that is under way, in a file from which another run goes on.

The file is one line after another, each of JSON with a checksum: first what the rows are of, then the rows of a weight
a line, in the order in which they were found. A line that was cut, or is not as it was written, ends what is read: its
weight is measured again. Nothing is written over, so that a killed run loses at most the weights it was at.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock as ThreadLock
from typing import Any, BinaryIO

from ..files import Lock

Row = Mapping[str, Any]


def identity(files: Sequence[Path]) -> list[list[Any]]:
    """What tells the contents of files from others without reading them: path, size and time of the last change."""
    return [[str(path.resolve()), (known := path.stat()).st_size, known.st_mtime_ns] for path in files]


class Kept:
    """The rows of one analysis, in a folder for those of many.

    Args:
        folder: it is made if it is missing. None: nothing is kept.
        key: all that the rows depend on, as JSON has it: the files' `identity`, and the settings.

    Attributes:
        known: the rows of each weight that an earlier run has found, by its name.
        path: the file; None where nothing is kept.
        trouble: why nothing is kept, for a note; empty if rows are, or were not to be.

    An analysis does not fail because its rows cannot be kept: a full disk, a folder that cannot be written, another
    run of the same analysis are its `trouble`.
    """

    def __init__(self, folder: Path | None, key: Mapping[str, Any]) -> None:
        self.known: dict[str, Sequence[Row]] = {}
        self.trouble = ""
        self.path: Path | None = None
        self._file: BinaryIO | None = None
        self._lock: Lock | None = None
        self._one_at_a_time = ThreadLock()
        if folder is None:
            return
        head = json.dumps(key, sort_keys=True)
        path = self.path = folder / f"{hashlib.sha256(head.encode()).hexdigest()[:24]}.rows"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(path.with_suffix(".lock"))
            if not self._lock.take():
                self.trouble = f"{path}: another run is at the same analysis"
                return
            self._file = path.open("a+b", buffering=0)
            self._read(head)
        except (OSError, ImportError) as error:
            self._give_up(error)

    def add(self, name: str, rows: Sequence[Row]) -> None:
        """Keep the rows of one more weight. Any thread may call this."""
        with self._one_at_a_time:
            if self._file is not None:
                try:
                    self._write(json.dumps([name, rows]))
                except OSError as error:
                    self._give_up(error)

    def close(self) -> None:
        """Let go of the file. It stays: the same analysis is then answered from it."""
        with self._one_at_a_time:
            if self._file is not None:
                self._file.close()
                self._file = None
        if self._lock is not None:
            self._lock.release()

    def _read(self, head: str) -> None:
        """Take what is whole of the file, and cut off the rest."""
        assert self._file is not None
        self._file.seek(0)
        whole, lines = 0, self._file.read().splitlines(keepends=True)
        for i, line in enumerate(lines):
            text = _opened(line)
            if text is None or (i == 0 and text != head):
                break
            if i > 0:
                try:
                    name, rows = json.loads(text)
                    self.known[name] = [dict(row) for row in rows]
                except (ValueError, TypeError):  # of somebody else: a checksum is no signature
                    break
            whole += len(line)
        self._file.truncate(whole)
        if whole == 0:
            self._write(head)

    def _write(self, text: str) -> None:
        assert self._file is not None
        line = _sealed(text)
        while line:  # a disk that has room for a part takes that
            line = line[self._file.write(line) :]

    def _give_up(self, error: Exception) -> None:
        self.trouble = f"{self.path}: {getattr(error, 'strerror', None) or error}"
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            with suppress(OSError):
                self._lock.release()


def _sealed(text: str) -> bytes:
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


def _opened(line: bytes) -> str | None:
    """The text of a line, None if it is not as it was written."""
    text = line[9:-1].decode(errors="replace")
    return text if line == _sealed(text) else None
