"""Prints what a reader of the results has to know of the machine: versions, device, clocks, users, what serves it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess

PACKAGES = ("torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "numpy", "pydantic", "datasets", "pytest-xdist")
QUERY = ("name", "driver_version", "compute_cap", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit",
         "memory.used", "ecc.mode.current", "mig.mode.current")  # fmt: skip


def main() -> None:
    import torch

    from fastrank import backend

    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    print(f"python {platform.python_version()}, {os.cpu_count()} cores; {', '.join(found)}")
    try:
        command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv"]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        running = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]
        others = subprocess.run(running, capture_output=True, text=True, check=True).stdout.split("\n")
        print(f"{len([line for line in others if line.strip()])} other processes on it")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"nvidia-smi: {error}")
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        size = f"{about.total_memory / 2**30:.0f} GiB, {about.L2_cache_size / 2**20:.0f} MiB of L2"
        print(f"{about.name}: sm_{about.major}{about.minor}, {about.multi_processor_count} multiprocessors, {size}")
    else:
        print("no CUDA device")
    print("\n".join(": ".join(choice) for choice in backend.report()))


if __name__ == "__main__":
    main()
