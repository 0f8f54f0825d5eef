"""Shared by the tests of benchmarks."""

from __future__ import annotations

import pytest
from gpu_plan import Drill


@pytest.fixture
def drill(tmp_path):
    return Drill(rows=tmp_path / "a-gpu.csv", folder=tmp_path / "a-gpu", carry=tmp_path / "carry")
