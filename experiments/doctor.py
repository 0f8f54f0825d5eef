"""What ``fastrank doctor`` prints: versions, devices, and which implementation serves each operation, and why.

With ``--probe``: whether what the proofs assume of arithmetic holds on each device.
"""

import os
import platform

import torch

from fastrank import backend, probing

from .errors import UserError
from .provenance import commit, versions
from .terminal import align_columns


def describe() -> list[str]:
    """The whole report, as lines for the terminal."""
    lines = [f"{name:14}{value}" for name, value in {**versions(), "commit": commit()}.items()]
    lines.append(f"{'cpu':14}{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()}")
    gpus = [f"{f'cuda:{i}':14}{torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    lines += gpus or [f"{'cuda':14}none: {_why_no_cuda()}"]
    try:
        chosen = backend.report()
    except ValueError as error:  # an environment variable says what is none of its values
        raise UserError(str(error)) from error
    rows = [("operation", "device", "implementation", "reason"), *chosen]
    return [*lines, "", *align_columns(rows)]


def describe_probes() -> tuple[list[str], bool]:
    """What was found of every assumption on every device, as lines for the terminal; and whether all of them hold."""
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    found = [(device, finding) for device in devices for finding in probing.probe(torch.device(device))]
    rows = [("device", "holds", "assumption", "what was seen")]
    rows += [(device, "yes" if f.passed else "NO", f.assumption, f.seen) for device, f in found]
    cures = [f"{device}: {f.assumption}: {f.cure}" for device, f in found if not f.passed]
    total = f"{len(found) - len(cures)} of {len(found)} tests passed{'; the others, and what to do:' if cures else ''}"
    return [*align_columns(rows), "", total, *cures], not cures


def _why_no_cuda() -> str:
    built = "this torch is built for the CPU only" if torch.version.cuda is None else "torch sees no device"
    return built + "; everything runs on the CPU"
