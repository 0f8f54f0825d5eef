"""A job of two ranks whose results the tests of several files look at."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from processes import IMPORTS, run
from sharded_job import found_by, job


class TwoRanks(NamedTuple):
    """What has become of it."""

    folder: Any
    ended: list[Any]
    """What each rank has returned, or how it has ended."""
    found: list[dict[str, Any]]
    """What each rank has found before."""


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_ranks")
    ended = run(job, 2, str(folder), timeout=150, imports=IMPORTS)
    return TwoRanks(folder, ended, [found_by(rank, folder) for rank in range(2)])
