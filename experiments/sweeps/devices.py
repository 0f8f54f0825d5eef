"""The slots of this machine, in each of which one job runs: one a core, or as many a GPU as fit its memory."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..engines import LocalEngine, available_cores
from ..errors import UsageError, UserError
from ..training import Crashed, Job, JobCost

COST = "fastrank.experiments.training.cost:run"
MOST_A_GPU = 8  # processes; if there are more they wait for each other rather than overlap
SHARE = 0.9  # of a GPU's free memory that all its slots may take together
CONTEXT = 600 << 20  # bytes that a process takes on a GPU besides its tensors


class CostError(UserError):
    """A short run, which was to tell time and memory, has failed. The message says how."""


def check_device(device: str) -> None:
    """Raise UsageError for a name that is none of ``auto``, ``cpu`` and ``cuda``."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device: expected auto, cpu or cuda, not {device!r}")


def kind(device: str) -> str:
    """What jobs run on, ``cpu`` or ``cuda``, from what the user has asked for: one of those, or ``auto``.

    Raises UsageError for a device that is not there.
    """
    check_device(device)
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no CUDA device here; 'fastrank doctor' says why")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def cost_of(job: Job, device: str, function: str = COST) -> JobCost:
    """Measure the seconds and the memory of a job, by a short run of it in a process of its own.

    Raises CostError where that fails; the message says so when it was for want of memory.
    """
    with TemporaryDirectory() as folder:
        engine = LocalEngine(Path(folder), [device], function)
        try:
            engine.start(job)
            while True:
                for _, event in engine.listen(1.0):
                    match event:
                        case JobCost():
                            return event
                        case Crashed():
                            raise CostError(_why(job, device, event))
        finally:
            engine.stop()


def _why(job: Job, device: str, event: Crashed) -> str:
    what = f"{job.name} ({len(job.specs)} trials)" if job.is_stack else f"trial {job.name}"
    if event.out_of_memory or event.killed:
        size = "" if device == "cpu" else f" of {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
        remedy = "take smaller stacks (--stack)" if job.is_stack else "take smaller batches or a smaller network"
        return f"{what} does not fit the memory of {device}{size}: {remedy}"
    return f"a short run of {what} on {device} failed:\n{event.error}"


def slots(device: str, workers: int | None, largest: Sequence[Job]) -> list[str]:
    """The device of every slot, such as ``["cuda:0", "cuda:1", "cuda:0"]``.

    Args:
        device: ``cpu`` or ``cuda``.
        workers: how many slots; None for one a core, or as many as fit on the GPUs.
        largest: jobs to be measured; slots of a GPU are as many as fit if each runs the one that takes most memory.
    """
    if device == "cpu":
        return ["cpu"] * (workers or available_cores())
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if workers is not None:
        return [names[i % len(names)] for i in range(workers)]
    need = CONTEXT + max((cost_of(job, names[0]).memory for job in largest), default=0)
    most = min(MOST_A_GPU, max(1, available_cores() // len(names)))
    fit = [max(1, min(most, int(SHARE * torch.cuda.mem_get_info(name)[0] / need))) for name in names]
    return [name for i in range(max(fit)) for name, count in zip(names, fit, strict=True) if i < count]
