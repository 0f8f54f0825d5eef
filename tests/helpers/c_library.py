"""A library in C that stands for one of CUDA's in a test."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest


def c_library(folder, source):
    """Compiles `source` in `folder` and loads it; skips the test where there is no gcc."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    (folder / "fake.c").write_text(source)
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", folder / "libfake.so", folder / "fake.c"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "libfake.so"))
