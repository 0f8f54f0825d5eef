"""No certificate where rounding or products are not as proofs assume them: it is refused, and that costs no time."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest
import torch
from torch import nn
from world_of_one import world_of_one

import fastrank
from fastrank import linalg
from fastrank.probing import products, require, required

CPU = torch.device("cpu")
CALLS = {
    "rank_bounds": lambda a: linalg.rank_bounds(a),
    "rank_bounds of arrays": lambda a: linalg.rank_bounds(a.numpy()),
    "rank_bounds of a list": lambda a: linalg.rank_bounds([a, a[:2]]),
    "matrix_rank": lambda a: linalg.matrix_rank(a),
    "svd_lowrank": lambda a: linalg.svd_lowrank(a, 1),
    "svdvals": lambda a: linalg.svdvals(a),
    "spectral_norm": lambda a: linalg.spectral_norm(a),
    "nuclear_norm": lambda a: linalg.nuclear_norm(a),
    "a tracker": lambda a: fastrank.RankTracker(nn.Linear(4, 4)),
}


@pytest.fixture
def anew(monkeypatch):
    """No device has been looked at."""
    monkeypatch.setattr(required, "_proven", set())


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_what_multiplies_in_fp32_certifies_nothing(call, anew, monkeypatch):
    a = torch.eye(4)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "matmul", lambda x, y: (x.float() @ y.float()).double())
        for _ in range(2):  # a refusal is not forgotten
            with pytest.raises(RuntimeError, match=r"^cpu: nothing can be certified") as caught:
                call(a)
        told = (products.GRADED, "is inf of its bound", "CUBLAS_EMULATE_DOUBLE_PRECISION", "fastrank doctor --probe")
        for part in told:
            assert part in str(caught.value)
    call(a)


def test_a_dtensor_that_goes_by_its_gram_is_refused_too(anew, monkeypatch):
    from torch.distributed.tensor import Shard, distribute_tensor

    with world_of_one("cpu") as mesh:
        a = distribute_tensor(torch.ones(4, 3000), mesh, [Shard(1)])
        monkeypatch.setattr("fastrank.linalg.sharded.gram_is_smaller", lambda A: True)
        assert linalg.rank_bounds(a).lower.item() == 1
        monkeypatch.setattr(required, "_proven", set())
        monkeypatch.setattr(products, "small", lambda device: products._judged(products.GRADED, 2.0, "a product"))
        with pytest.raises(RuntimeError, match="nothing can be certified"):
            linalg.rank_bounds(a)


def test_a_device_is_looked_at_once(anew, monkeypatch):
    seen = []
    stock = products.small
    monkeypatch.setattr(products, "small", lambda device: seen.append(device) or stock(device))
    for _ in range(3):
        require(CPU)
    linalg.rank_bounds(torch.eye(3))
    assert seen == [CPU]


def test_nothing_is_looked_at_while_a_graph_is_captured(anew, captured, monkeypatch):
    stock = products.small
    monkeypatch.setattr(products, "small", lambda device: pytest.fail("a product in a capture"))
    with captured():
        require(CPU)
    monkeypatch.setattr(products, "small", stock)
    assert required._proven == set()
    require(CPU)
    assert required._proven == {CPU}


def test_determinism_is_switched_on_again(anew, monkeypatch):
    """cuBLAS refuses to be called where it is, unless the environment says more."""
    monkeypatch.setattr(products, "small", lambda device: torch.are_deterministic_algorithms_enabled())
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert required._product(torch.device("cuda")) is False
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert required._product(CPU) is True
    finally:
        torch.use_deterministic_algorithms(False)


ROUNDING = """
import ctypes, ctypes.util, functools, sys
import torch
import fastrank
from fastrank.probing import required

set_mode = ctypes.CDLL(ctypes.util.find_library("m")).fesetround
NEAREST, DOWN, UP, TO_ZERO = MODES
CPU, a, tracker = torch.device("cpu"), torch.eye(3), fastrank.RankTracker(torch.nn.Linear(3, 3))
torch.set_num_threads(2)

def refused(call):
    try:
        call()
    except RuntimeError as error:
        return "the thread that asks rounds to nearest" in str(error) and "fesetround" in str(error)
    return False

for first in (True, False):  # before the first certificate, and after it
    required._proven.clear()
    for mode in (DOWN, UP, TO_ZERO):
        assert set_mode(mode) == 0
        calls = [lambda: fastrank.linalg.rank_bounds(a), lambda: fastrank.linalg.svd_lowrank(a, 1)]
        calls += [lambda: fastrank.RankTracker(torch.nn.Linear(3, 3)), tracker.step]
        assert all(map(refused, calls)), mode
        assert set_mode(NEAREST) == 0
        if not first:
            assert fastrank.linalg.rank_bounds(a).certified.all()

assert set_mode(UP) == 0
assert not required.rounding_of_threads(CPU).passed  # which starts the other threads, with this thread's mode
assert set_mode(NEAREST) == 0
assert required.rounding_of_thread().passed
assert not required.rounding_of_threads(CPU).passed

assert set_mode(UP) == 0
torch.set_num_threads(1)
fastrank.probing.probe = functools.partial(fastrank.probing.probe, orders=(4,))  # which is enough
sys.argv = ["fastrank", "doctor", "--probe"]
from fastrank.experiments.cli import main
main()
"""
MODES = {"x86_64": (0, 0x400, 0x800, 0xC00), "aarch64": (0, 0x800000, 0x400000, 0xC00000)}


def test_another_rounding_mode_is_refused_and_seen_by_the_doctor():
    modes = MODES.get(platform.machine())
    if modes is None or sys.platform != "linux":
        pytest.skip("no numbers of rounding modes are known here")
    script = ROUNDING.replace("MODES", str(modes))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    for line in (
        r"^cpu +NO +the thread that asks rounds to nearest +\S",
        r"^cpu: FP64 operations .*: set rounding",
    ):
        assert re.search(line, done.stdout, re.MULTILINE)
