"""`run`: a function in several processes of one job, with `torch.distributed` on gloo, within a bounded time."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

IMPORTS = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor.parallel")
IMPORTS += ("torch.distributed.checkpoint.state_dict", "numba", "pyarrow.parquet", "pandas", "fastrank")
"""What a sharded model and its tracker import, in several seconds of each process; see `run`."""

LINGER = 8.0
"""Seconds that the others have to end after one process has raised: they may wait for it in vain."""


class Ended(NamedTuple):
    """The result of a process that ended before its function did: killed, or by `os._exit`."""

    code: int
    """As `subprocess` has it: -9 after SIGKILL."""


class Raised(NamedTuple):
    """The result of a process whose function raised."""

    text: str
    """The traceback."""


def run(function, processes, *arguments, timeout=60, errors=False, store="file", imports=()):
    """What `function(rank, *arguments)` returns in each of the `processes` ranks of a job, in their order.

    Each rank is a fresh interpreter with one thread, and they start at the same time: a fork of a process that has
    used threads, as that of the tests has, may hang. Gloo is initialised for all of them, on the loopback interface.

    Args:
        function: of a module's top level. Its file is imported in each process, under the name that it has here, and
            finds the packages that this process does.
        processes: how many ranks.
        arguments: what is pickled. Results are pickled too.
        timeout: seconds, after which all that is left is killed, and the test fails with everything that was printed.
        errors: whether the text of an exception takes the place of a result. Otherwise the first one is raised.
        store: "file": the job's store is a file, which outlives every process. "tcp": rank 0 keeps it, as in most jobs.
        imports: modules whose imports take many seconds: one fresh interpreter imports them, and then forks into the
            ranks. It must not have used threads by then, which an import does not do.

    Returns:
        A list of results; `Ended` in place of one that was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        path = Path(sys.modules[function.__module__].__file__)
        (here / "arguments").write_bytes(pickle.dumps(arguments))
        command = [sys.executable, __file__, folder, function.__module__, str(path), function.__name__]
        started = []
        try:
            for rank in ["all"] if imports else range(processes):
                with (here / f"printed{rank}").open("wb") as printed:
                    started.append(
                        subprocess.Popen(
                            [*command, str(rank), str(processes), store, *imports],
                            stdin=subprocess.DEVNULL,
                            stdout=printed,
                            stderr=subprocess.STDOUT,
                            env=os.environ
                            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                            start_new_session=True,
                        )
                    )
            _wait(started, here, range(processes), timeout, errors)
        finally:
            for process in started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if imports:
            codes = [int((here / f"code{rank}").read_text()) for rank in range(processes)]
        else:
            codes = [process.returncode for process in started]
        return [_result(here, rank, code) for rank, code in enumerate(codes)]


def _wait(started, here, ranks, timeout, errors):
    """Until all have ended; an `AssertionError` at the deadline, or at the first exception that nobody asked for."""
    deadline, failed = time.monotonic() + timeout, False
    while any(process.poll() is None for process in started):
        if not (errors or failed) and any((here / f"raised{rank}").exists() for rank in ranks):
            deadline, failed = min(deadline, time.monotonic() + LINGER), True
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    late = any(process.poll() is None for process in started)
    raised, returned = ([rank for rank in ranks if (here / f"{end}{rank}").exists()] for end in ("raised", "result"))
    if late or (raised and not errors):
        printed = "\n".join(f"--- rank {rank}:\n{_printed(here, rank)}" for rank in ranks)
        ends = f"{raised} raised, {returned} returned{', and not all ended in time' if late else ''}"
        raise AssertionError(f"of {len(ranks)} ranks, {ends}\n{printed}")


def _printed(here, rank):
    printed, raised = here / f"printed{rank}", here / f"raised{rank}"
    text = printed.read_text(errors="replace")[-20_000:] if printed.exists() else ""
    return text + (raised.read_text() if raised.exists() else "")


def _result(here, rank, code):
    done, raised = here / f"result{rank}", here / f"raised{rank}"
    if raised.exists():
        return Raised(raised.read_text())
    if done.exists():
        assert code == 0, f"rank {rank} ended with {code} after its function had returned:\n{_printed(here, rank)}"
        return pickle.loads(done.read_bytes())
    return Ended(code)


def _store(kind, here, rank, processes):
    """The job's store. The port of one that rank 0 keeps is a free one, which it writes into a file."""
    import torch.distributed as dist

    if kind == "file":
        return dist.FileStore(str(here / "store"), processes)
    port = here / "port"
    if rank == 0:
        made = dist.TCPStore("127.0.0.1", 0, processes, is_master=True, wait_for_workers=False)
        (here / "port.new").write_text(str(made.port))
        (here / "port.new").rename(port)
        return made
    while not port.exists():
        time.sleep(0.01)
    return dist.TCPStore("127.0.0.1", int(port.read_text()), processes, wait_for_workers=False)


def _main(folder, name, path, function, rank, processes, store):
    """What each process does."""
    here, rank, processes = Path(folder), int(rank), int(processes)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kept = _store(store, here, rank, processes)
        wait = timedelta(seconds=30)
        dist.init_process_group("gloo", store=kept, rank=rank, world_size=processes, timeout=wait)
        arguments = pickle.loads((here / "arguments").read_bytes())
        result = pickle.dumps(getattr(module, function)(rank, *arguments))
        (here / f"result{rank}").write_bytes(result)
        with contextlib.suppress(RuntimeError):  # of others that are gone
            dist.destroy_process_group()
    except BaseException:
        (here / f"raised{rank}").write_text(traceback.format_exc())
        sys.exit(1)


def _fork(folder, name, path, function, processes, store, imports):
    """What the one process does that imports modules for all ranks, and is then their parent."""
    here, children = Path(folder), []
    try:
        for module in imports:
            importlib.import_module(module)
    except BaseException:
        (here / "raised0").write_text(traceback.format_exc())
        sys.exit(1)
    for rank in range(int(processes)):
        if not (child := os.fork()):
            with (here / f"printed{rank}").open("wb") as printed:
                os.dup2(printed.fileno(), 1)
                os.dup2(printed.fileno(), 2)
            _main(folder, name, path, function, rank, processes, store)
            return
        children.append(child)
    for rank, child in enumerate(children):
        (here / f"code{rank}").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


def _end():
    """As any process ends that has nothing left to do, but without taking the interpreter apart: with PyTorch in it,
    and in a fork above all, whose memory is copied for that, it takes longer than what most tests do."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[5] == "all":
        _fork(*sys.argv[1:5], *sys.argv[6:8], sys.argv[8:])
    else:
        _main(*sys.argv[1:])
    _end()
