"""The process that runs jobs: ``python -m fastrank.experiments.engines.worker SOCKET FUNCTION``.

SOCKET is the file descriptor of a pipe to the driver: jobs come in, events go out. FUNCTION is ``module:name``
of what runs a job. A fresh process, rather than a fork, keeps the driver's threads and signal handlers out.
"""

import faulthandler
import gc
import importlib
import os
import queue
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from ..training import Job, RunJob
from .execute import execute

Order = tuple[Job, str, str, str | None]  # a job, the sweep's folder, a device, where it is stored


def serve(connection: Connection, run: RunJob) -> None:
    """Run jobs until the driver says None. Ends the process at once when the driver is gone."""
    orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, orders), daemon=True).start()
    while (order := orders.get()) is not None:
        job, folder, device, storage = order
        for event in execute(run, job, Path(folder), device, storage):
            connection.send(event)
        gc.collect()  # the next job is not to find the last one's networks in memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _listen(connection: Connection, orders: "queue.SimpleQueue[Order | None]") -> None:
    """In a thread of its own, so that the driver's death is noticed in the middle of a trial.

    Two drivers' workers must never write the same trial; nothing is lost by ending here, as files are atomic.
    """
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)


def load(function: str) -> RunJob:
    """Import the function that ``module:name`` names."""
    module, name = function.split(":")
    run: RunJob = getattr(importlib.import_module(module), name)
    return run


def main() -> None:
    """Entry point of the process."""
    connection = Connection(int(sys.argv[1]))
    faulthandler.enable()  # a crash in native code leaves its stack on stderr, which the driver reads
    serve(connection, load(sys.argv[2]))


if __name__ == "__main__":
    main()
