"""Where a row was measured: device, versions, commit."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
PACKAGES = ("numpy", "scipy", "scikit-learn", "cupy-cuda12x", "cupy-cuda13x", "weightwatcher")
"""Besides torch and triton: rivals whose versions matter."""


@functools.cache
def device_name(device: torch.device) -> str:
    """`NVIDIA H200`, `AMD EPYC`: as the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def results_file(device: torch.device) -> Path:
    """`bench/results/<device>.csv`."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return ROOT / "bench" / "results" / f"{slug}.csv"


@functools.cache
def columns(device: torch.device) -> dict[str, str]:
    """The columns of a row that tell where it comes from."""
    versions = {name: _version(name) for name in PACKAGES}
    commit, dirty = _commit()
    return {
        "device": device_name(device),
        "driver": _driver(device),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton") or "",
        "cuda": (torch.version.cuda or "") if device.type == "cuda" else "",
        "packages": "; ".join(f"{name} {version}" for name, version in versions.items() if version),
        "commit": commit,
        "dirty": dirty,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown cpu")


def _driver(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def _commit() -> tuple[str, str]:
    """The commit, and whether code that a row depends on differs from it: `yes`, `no`, or `` where nobody knows.

    FASTRANK_COMMIT tells it where a copy of the tree was sent to a machine: without a repository, or with an older one.
    """
    if told := os.environ.get("FASTRANK_COMMIT"):
        return told, ""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", "fastrank", "kernels", "bench", ":!bench/results")
        return git("rev-parse", "--short=12", "HEAD"), "yes" if changes else "no"
    except (OSError, subprocess.CalledProcessError):
        return "unknown", ""
