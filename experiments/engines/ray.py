"""The Ray engine: jobs as tasks of a Ray cluster. Jobs of a node that dies go on elsewhere.

The sweep's folder, on the driver's machine, has the ledger. Histories and checkpoints go there too, if all nodes see
that folder, or else to a place that they all reach (``--storage``).
"""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from ..errors import UserError
from ..records import Layout
from ..training import Crashed, Event, Job
from .engine import ENVIRONMENT
from .execute import execute
from .worker import load

ADDRESS = "RAY_ADDRESS"
PATIENCE = 10.0  # seconds that a cluster has to answer in


class RayEngine:
    """Runs jobs as tasks on the cluster that ``RAY_ADDRESS`` names, or on a private one of this machine without it.

    Args:
        folder: the sweep's folder.
        device: ``cpu``, a core for each job; ``cuda``, a core and a GPU; ``auto``, a GPU if the cluster has one.
        workers: most jobs at a time; None for as many as the cluster has room for.
        function: ``module:name`` of what runs a job, with the signature of `job.run`.
        storage: where histories and checkpoints go; None for the sweep's folder.

    Raises UserError where the cluster cannot be reached, or has no GPU and is asked for one.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        workers: int | None,
        function: str,
        storage: str | None,
    ) -> None:
        self._folder, self._function, self._storage, self._workers = folder.absolute(), function, storage, workers
        self._tasks: dict[Any, Job] = {}
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(os.environ.get(ADDRESS))
        gpus = _resources().get("GPU", 0)
        if device == "cuda" and not gpus:
            raise UserError("--device cuda: the Ray cluster has no GPU")
        self.device = "cuda" if gpus and device != "cpu" else "cpu"
        # A process keeps the GPU that it first saw, and memory on it, so it serves one job. (max_calls must be given
        # here: options() would lose it.)
        of_a_gpu: dict[str, Any] = {"num_gpus": 1, "max_calls": 1} if self.device == "cuda" else {}
        remote: Any = ray.remote(
            **of_a_gpu,
            num_cpus=1,
            max_retries=0,  # the driver tries again: it knows how often, and from which checkpoint
            num_returns="streaming",
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": ENVIRONMENT | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
        )
        self._run = remote(_run)

    @property
    def slots(self) -> int:
        """How many jobs the cluster, as it is now, has room for."""
        free = _resources()
        fit = int(min(free.get("GPU", 0), free.get("CPU", 0)) if self.device == "cuda" else free.get("CPU", 0))
        return max(1, min(fit, self._workers or fit))

    def has_room(self) -> bool:
        """Whether a job would be started now."""
        return len(self._tasks) < self.slots

    def start(self, job: Job) -> None:
        """Hand the job to the cluster, as a task."""
        device = "cuda:0" if self.device == "cuda" else "cpu"  # a task sees the GPU that Ray gave it, and no other
        self._tasks[self._run.remote(self._function, job, str(self._folder), device, self._storage)] = job

    def listen(self, timeout: float) -> Iterator[tuple[Job, Event]]:
        """Every event that is ready. For a task that has died it is a `Crashed`, with Ray's account of the cause."""
        if not self._tasks:
            time.sleep(timeout)
            return
        ready: list[Any] = ray.wait(list(self._tasks), timeout=timeout, fetch_local=False)[0]
        for stream in ready:
            job = self._tasks[stream]
            try:
                event: Event = ray.get(next(stream))
            except StopIteration:
                event = Crashed("the task ended without a result of every trial")
            except ray.exceptions.RayError as error:
                event = Crashed(str(error), killed=not isinstance(error, ray.exceptions.RayTaskError))
            if isinstance(event, Crashed):
                self.release(job)
            yield job, event

    def release(self, job: Job) -> None:
        """Forget the job's task, which has nothing more to tell."""
        self._tasks = {stream: other for stream, other in self._tasks.items() if other is not job}

    def stop(self) -> None:
        """End all tasks, and leave the cluster."""
        for stream in self._tasks:
            ray.cancel(stream, force=True)
        self._tasks = {}
        if self._ours:
            ray.shutdown()


def _resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _run(function: str, job: Job, folder: str, device: str, storage: str | None) -> Iterator[Event]:
    if storage is None and not Layout(Path(folder)).ledger.exists():
        yield Crashed(
            f"{folder}: the node {socket.gethostname()} does not see the sweep's folder: put it where all nodes do, "
            "or keep histories elsewhere with --storage"
        )
        return
    yield from execute(load(function), job, Path(folder), device, storage)


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


def _connect(address: str | None) -> None:
    try:
        if address and "://" in address:
            raise ValueError("a job's events cannot come through Ray Client; give the cluster's own address, host:port")
        if address and ":" in address:
            _knock(address)
        ray.init(address=address or "local", log_to_driver=False, configure_logging=False, include_dashboard=False)
    except (OSError, RuntimeError, ValueError) as error:
        place = f"the Ray cluster at {ADDRESS}={address} cannot be reached" if address else "Ray cannot be started"
        raise UserError(
            f"--engine ray: {place}: {error}. Start one with 'ray start --head', or unset {ADDRESS} for a private one"
        ) from error
