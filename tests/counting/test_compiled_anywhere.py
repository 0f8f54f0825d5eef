"""Compiled batches on other machines: of any CPU, without a folder to write, and without a Numba that works."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fastrank import backend, linalg, testing

pytestmark = pytest.mark.skipif(bool(backend.why_numba_fails()), reason=backend.why_numba_fails())


def run(script, **environment):
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600,
                          env={**os.environ, **environment})  # fmt: skip
    assert made.returncode == 0, made.stderr
    return made.stdout


COUNTS = """
import torch
from fastrank import backend, linalg, testing
from fastrank.measuring import compile_for_cpu
cases = [testing.make(family, m, n, seed=m).matrix for m, n in [(9, 9), (33, 70), (130, 128)]
         for family in ("geometric", "low_rank", "clustered", "identity")]
bounds = linalg.rank_bounds(cases)
with torch.device("meta"):  # where tensors are made that nobody asks for another device
    assert torch.equal(linalg.rank_bounds(cases).lower, bounds.lower)
    compile_for_cpu()
    assert len(linalg.matrix_rank(cases)) == len(linalg.spectral_norm(cases)) == len(cases)
print(backend.why_numba_fails())
print(bounds.lower.tolist(), bounds.upper.tolist())
print(linalg.spectral_norm(cases).tolist())
"""


def here():
    cases = [testing.make(family, m, n, seed=m).matrix for m, n in [(9, 9), (33, 70), (130, 128)]
             for family in ("geometric", "low_rank", "clustered", "identity")]  # fmt: skip
    bounds = linalg.rank_bounds(cases)
    return f"{bounds.lower.tolist()} {bounds.upper.tolist()}", linalg.spectral_norm(cases)


def check(output):
    why, bounds, norms = output.splitlines()
    expected, top = here()
    assert not why
    assert bounds == expected
    torch.testing.assert_close(torch.tensor(eval(norms), dtype=torch.float64), top, rtol=1e-8, atol=0)


class Broken:
    """Numba is found, and does not load."""

    def find_spec(self, name, path=None, target=None):
        if name == "numba":
            raise OSError("no libllvmlite.so")


def test_numba_that_does_not_load_or_compile_is_told_and_not_used(monkeypatch):
    """What PyTorch counts in its place, other tests compare with this."""
    import numba

    assert not backend.why_numba_fails.__wrapped__()
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert backend.why_numba_fails.__wrapped__() == "NUMBA_DISABLE_JIT is set"
    monkeypatch.setattr(backend, "installed", lambda package: True)
    monkeypatch.delitem(sys.modules, "numba")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert "no libllvmlite.so" in backend.why_numba_fails.__wrapped__()
    monkeypatch.setattr(backend, "installed", lambda package: False)
    assert "fastrank[cpu]" in backend.why_numba_fails.__wrapped__()


NOWHERE = """
import tempfile
def denied(*arguments, **options):
    raise PermissionError
import torch
tempfile.TemporaryFile = denied
"""


def test_any_cpu_counts_the_same_and_needs_no_folder_that_can_be_written():
    """Compiled for a CPU of which nothing is known, each time."""
    check(run(NOWHERE + COUNTS, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=""))
