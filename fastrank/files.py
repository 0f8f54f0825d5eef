"""Write files so that each is either complete or not there, whatever happens while it is written; and locks, by which
one writer keeps others out."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # the name that whoever asked for the file knows
            if error.filename2 is not None:  # of a rename; None in its place would be told as a second name
                del error.filename2
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have what was written into a file, or the renames in a folder, on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """A hidden file that at most one `Lock`, of all processes, has at a time.

    It is given back by `release`, which removes the file, when this object is collected, and by the system when the
    process ends, even if it is killed. A forked child does not have it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._close: weakref.finalize[[int], Lock] | None = None
        _LOCKS.add(self)

    def take(self) -> bool:
        """Take the lock, if it is not held already. Does not wait. Returns whether it is held.

        Raises:
            OSError: the file cannot be made, or its file system has no locks. ImportError: the system has none.
        """
        import fcntl  # not on Windows

        for _ in range(ATTEMPTS):
            if self.held:
                return True
            self.drop()
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            self._close = weakref.finalize(self, os.close, self._descriptor)
            self._close.atexit = False  # because it is still needed when other things are done at exit
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.drop()
                if isinstance(error, BlockingIOError):
                    return False
                raise
        raise OSError(f"{self._path}: it is another file whenever one looks")

    @property
    def held(self) -> bool:
        """Whether this object has the lock. Not if its file was removed, because others then lock a new one."""
        try:
            return self._close is not None and os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Give the lock back, if it is held, and remove the file."""
        with suppress(OSError):
            if self.held:
                self._path.unlink()
        self.drop()

    def drop(self) -> None:
        """Close the file, if it is open. That unlocks it, unless a process that has forked this one has it open too."""
        if self._close is not None:
            self._close()
            self._close = None


ATTEMPTS = 10
"""How often a lock is tried. Its file may have been removed when it was locked, by one who released the lock."""

_LOCKS: weakref.WeakSet[Lock] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """In a forked child, close what it has inherited: it would else hold the locks beyond its parent's end."""
    for lock in list(_LOCKS):
        lock.drop()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_to_the_parent)
