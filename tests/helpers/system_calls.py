"""The calls of the system by which files are written, as Python makes them: each of them can fail, or be the last.

They are counted in a first run, in which nothing happens, and then each is hit in a run of its own. What C and Rust
write (SQLite, safetensors) does not pass here: see `full_disk` and `killed_at`, which hit them by the size of a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

NAMED = [(os, name) for name in ("open", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir")] + [(fcntl, "flock")]
KILLED = 9
When = Literal["before", "after"]


class Calls:
    """In its `with` block calls are counted, and at the one with the number `at`, from 0, something is done.

    Args:
        at: number of the call; None for none.
        do: what is done, told whether it is before or after the call; of a write, the middle is before.
    """

    def __init__(self, at: int | None = None, do: Callable[[When], None] = lambda when: None) -> None:
        self.names: list[str] = []
        self._at, self._do, self._patch = at, do, pytest.MonkeyPatch()

    def __enter__(self) -> Calls:
        for module, name in NAMED:
            self._patch.setattr(module, name, self.counted(name, getattr(module, name)))
        opened = Path.open

        def open_(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if not set(mode) & set("wxa"):
                return opened(path, mode, *args, **options)
            return Written(self.counted("create", opened)(path, mode, *args, **options), self)

        self._patch.setattr(Path, "open", open_)
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.undo()

    def counted(
        self, name: str, call: Callable[..., Any], half: Callable[..., Any] = lambda *a, **k: None
    ) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.names.append(name)
            hit = len(self.names) - 1 == self._at
            if hit:
                half(*args, **options)
                self._do("before")
            try:
                return call(*args, **options)
            finally:
                if hit:
                    self._do("after")

        return counted


class Written:
    """A file whose writes are counted. Nothing is buffered, so that each is one of the system's."""

    def __init__(self, file: Any, calls: Calls) -> None:
        self._file = file

        def written(content: Any) -> Any:
            result = file.write(content)
            file.flush()
            return result

        self.write = calls.counted("write", written, half=lambda content: written(content[: len(content) // 2]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def names_of(run: Callable[[], object]) -> list[str]:
    """The calls that `run` makes, in their order."""
    with Calls() as calls:
        run()
    return calls.names


def failing(run: Callable[[], object], at: int, code: int = errno.ENOSPC) -> None:
    """Have the call with this number fail, as on a full disk; a write after half of it."""

    def fail(when: When) -> None:
        if when == "before":
            raise OSError(code, os.strerror(code))

    with Calls(at, fail):
        run()


def killed(run: Callable[[], object], at: int, when: When) -> None:
    """Run in a forked process that dies at the call with this number: nothing is closed, flushed or given back."""

    def die(now: When) -> None:
        if now == when:
            os._exit(KILLED)

    def until_then() -> None:
        with Calls(at, die):
            run()

    assert os.WEXITSTATUS(status_of(until_then)) == KILLED, f"call {at} was not made"


def killed_at(run: Callable[[], object], size: int) -> bool:
    """Run in a forked process that the system kills when a file grows past `size` bytes; returns whether it has."""

    def until_then() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        run()

    status = status_of(until_then)
    assert status == 0 or os.WTERMSIG(status) == signal.SIGXFSZ
    return status != 0


def status_of(run: Callable[[], object]) -> int:
    """Run in a forked process; returns its status as `os.waitpid` has it: 0 where `run` has returned, 256 where it has
    raised. One that hangs is killed after a minute."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            run()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def every_call(run: Callable[[Path], object], folder: Path) -> Iterator[tuple[int, str, Path]]:
    """For each call that `run(folder)` makes: its number, its name, and a new folder to run it in once more."""
    (folder / "first").mkdir()
    for i, name in enumerate(names_of(lambda: run(folder / "first"))):
        fresh = folder / f"{i}"
        fresh.mkdir()
        yield i, name, fresh
