"""Where histories and checkpoints are kept: in the sweep's folder, or at any place that fsspec can write to.

A worker always writes files of its own machine; `fastrank.experiments.engines.execute` copies them to the place.
"""

import shutil
from pathlib import Path
from typing import Any

from fastrank import HistoryError

from ..errors import UsageError, UserError
from .layout import Layout


class StorageError(UserError):
    """A place cannot be used. The message names it."""


LOCAL = "file://"


def absolute(url: str | None) -> str | None:
    """A place as a URL that means the same in every process; a relative path is one from the user's current folder.

    What follows ``file://`` is a path as it is: fsspec takes ``%20`` for three characters.
    """
    return url if url is None or "://" in url else f"{LOCAL}{Path(url).expanduser().absolute()}"


def check_scheme(url: str | None) -> None:
    """Raise UsageError for a URL of a scheme that no installed package knows. Nothing is opened or made."""
    import fsspec

    place = absolute(url)
    for part in place.split("::") if place and not place.startswith(LOCAL) else ():
        try:
            fsspec.get_filesystem_class(part.partition("://")[0])
        except (ImportError, ValueError) as error:
            raise UsageError(f"--storage {url}: cannot be used: {error}") from error


class Storage:
    """The histories and checkpoints of a sweep, as the driver and the reports see them, wherever they are kept.

    Args:
        url: of a folder, as fsspec has it (``s3://bucket/run``); None for the sweep's own folder.
        layout: of the sweep's folder, on the driver's machine.

    Raises StorageError for a place that no installed package can write to.
    """

    def __init__(self, url: str | None, layout: Layout) -> None:
        self.url, self.layout = url, layout
        self._place = None if url is None else Place(url)

    def forget(self, name: str, *, history: bool) -> None:
        """Remove the checkpoint of a trial or stack and, with ``history``, its history."""
        self.layout.checkpoint(name).unlink(missing_ok=True)
        if history:
            self.layout.forget_history(name)
        if self._place is not None:
            self._place.remove(self._place.checkpoint(name))
            if history:
                self._place.remove(self._place.history(name))

    def fetch(self, trial: str) -> None:
        """Copy the history of a trial to the sweep's folder, if it is not there.

        Raises StorageError where it cannot be fetched, HistoryError where it is not there.
        """
        history = self.layout.history(trial)
        if self._place is None or history.exists():
            return
        draft = history.with_name(f".{trial}.draft")  # half a history would look like a whole one
        shutil.rmtree(draft, ignore_errors=True)
        try:
            self._place.pull(self._place.history(trial), draft)
            if not draft.exists():
                raise HistoryError(f"{self.url}: the history of {trial} is not there")
            draft.rename(history)
        except OSError as error:
            raise StorageError(f"{self.url}: the history of {trial} cannot be fetched: {error}") from error


class Place:
    """A folder that fsspec can write to, in which checkpoints and histories lie as in a sweep's folder."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            if url.startswith(LOCAL):  # fsspec would take a '::' in the path for a chain of URLs
                self._fs = fsspec.filesystem("file")
                root = self._fs._strip_protocol(url)
            else:
                self._fs, root = fsspec.core.url_to_fs(url)
            self._fs.makedirs(root, exist_ok=True)
        except (ImportError, ValueError, OSError) as error:
            raise StorageError(f"--storage {url}: cannot be written: {error}") from error
        self._root = root.rstrip("/")

    def checkpoint(self, name: str) -> str:
        return f"{self._root}/checkpoints/{name}.pt"

    def history(self, name: str) -> str:
        return f"{self._root}/history/{name}"

    def remove(self, path: str) -> None:
        """Remove a file or a folder, if it exists."""
        if self._fs.exists(path):
            self._fs.rm(path, recursive=True)

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file, or all files of a folder, to this machine. Nothing happens where there are none."""
        if self._fs.isfile(remote):
            local.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(remote, str(local))
            return
        for path in self._files(remote):
            target = local / path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(f"{remote}/{path}", str(target))

    def push(self, local: Path, remote: str) -> None:
        """Make a remote folder hold the same Parquet parts as a local one.

        Only those are copied that are missing there, or of another size: but for the last one, parts never change.
        """
        own = {str(path.relative_to(local)): path for path in local.rglob("*.parquet")} if local.exists() else {}
        stored = self._files(remote)
        for name in stored.keys() - own.keys():
            self._fs.rm_file(f"{remote}/{name}")
        for name in sorted(own):
            if stored.get(name) != own[name].stat().st_size:
                self.push_file(own[name], f"{remote}/{name}")

    def push_file(self, local: Path, remote: str) -> None:
        """Copy a file to the place, so that nobody sees half of it."""
        self._fs.makedirs(self._fs._parent(remote), exist_ok=True)
        draft = f"{remote}.draft"
        self._fs.put_file(str(local), draft)
        self._fs.mv(draft, remote)

    def _files(self, folder: str) -> dict[str, int]:
        """Sizes in bytes of the files below a remote folder, by their paths in it."""
        self._fs.invalidate_cache()
        if not self._fs.exists(folder):
            return {}
        found: dict[str, dict[str, Any]] = self._fs.find(folder, detail=True)
        start = len(self._fs._strip_protocol(folder)) + 1
        return {path[start:]: int(entry["size"]) for path, entry in found.items() if not path.endswith(".draft")}
