"""The process that runs trials: ``python -m fastrank.experiments.worker SOCKET FUNCTION``.

SOCKET is the file descriptor of a pipe to the driver: jobs come in, events go out. FUNCTION is ``module:name``
of what runs a trial. A fresh process, rather than a fork, keeps the driver's threads and signal handlers out.
"""

import faulthandler
import importlib
import os
import queue
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

from fastrank.experiments.events import Crashed, Finished, Report, Warned

from fastrank import HistoryWarning

Job = tuple[dict[str, Any], str]  # a trial's specification, the sweep's folder
RunTrial = Callable[[dict[str, Any], Path, Report], Finished]


def serve(connection: Connection, run: RunTrial) -> None:
    """Run jobs until the driver says None. Ends the process at once when the driver is gone."""
    jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, jobs), daemon=True).start()
    while (job := jobs.get()) is not None:
        spec, folder = job
        try:
            connection.send(run(spec, Path(folder), connection.send))
        except Exception:
            connection.send(Crashed(traceback.format_exc()))


def _listen(connection: Connection, jobs: "queue.SimpleQueue[Job | None]") -> None:
    """In a thread of its own, so that the driver's death is noticed in the middle of a trial.

    Two drivers' workers must never write the same trial; nothing is lost by ending here, as files are atomic.
    """
    try:
        while True:
            jobs.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)


def _tell_of_warnings(connection: Connection) -> None:
    """What the tracker warns of (a part of the history that could not be written) is for the driver's log."""
    elsewhere = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, HistoryWarning):
            connection.send(Warned(str(message)))
        else:
            elsewhere(message, category, filename, lineno, file, line)

    warnings.showwarning = show


def main() -> None:
    """Entry point of the process."""
    connection = Connection(int(sys.argv[1]))
    _tell_of_warnings(connection)
    faulthandler.enable()  # a crash in native code leaves its stack on stderr, which the driver reads
    module, name = sys.argv[2].split(":")
    serve(connection, getattr(importlib.import_module(module), name))


if __name__ == "__main__":
    main()
