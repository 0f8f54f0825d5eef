"""One job of two ranks for the tests of several files, because to start one takes longer than all that it does."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import torch
from sharded_failures import refusal, too_late, with_differences, with_failures
from sharded_replicas import alerted, evaluated, gradients, replicas, several
from sharded_resumes import interrupted

from fastrank.sharing import missing


def job(rank, folder):
    """What a rank has found is written before one is killed, in the midst of a training."""
    torch.set_num_threads(1)
    missing.GRACE, folder, failures = 2.0, Path(folder), {}
    with_differences(rank, failures)
    with_failures(rank, failures, folder)
    too_late(rank, failures)
    found = {
        "failures": failures,
        "replicas": replicas(rank, folder),
        "alerts": alerted(rank),
        "several": several(rank),
        "evaluated": evaluated(rank),
        "gradients": gradients(rank),
    }
    (folder / f"found{rank}").write_bytes(pickle.dumps(found))
    start = time.monotonic()
    return refusal(interrupted, rank, folder), time.monotonic() - start


def found_by(rank, folder):
    """What a rank has written, by the functions above."""
    return pickle.loads((Path(folder) / f"found{rank}").read_bytes())
