"""Files that are read back: cut off or with a flipped bit, they are named by an error, or are as they were written."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import cut, flipped, outcome
from made_history import make, record
from safetensors.torch import save_file
from torch import nn

from fastrank import AnalyzeError, RankTracker, factorize
from fastrank.analysis.parts import read
from fastrank.experiments.data.info import DataError, DataInfo
from fastrank.experiments.data.store import Part, digest_of, read_info, read_parts, write_set
from fastrank.experiments.records import Ledger, Status
from fastrank.experiments.records.ledger import LedgerError
from fastrank.experiments.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastrank.factors.file import read as read_factors
from fastrank.history import HistoryError, read_history

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.eye(3, dtype=torch.bfloat16)}


def check(
    path: Path, read_back: Callable[[Path], Any], error: type[Exception], stride: int, *, sealed: bool = True
) -> None:
    """Damage the file at `path` in many ways, and read it.

    Args:
        error: what may be raised; its message has to name the file.
        sealed: whether a flipped bit is always noticed. The file of a format without checksums is only cut off.
    """
    content, expected = path.read_bytes(), read_back(path)
    refused = 0
    for damaged in chain(cut(content, stride), flipped(content, stride) if sealed else ()):
        path.write_bytes(damaged)
        found, said = outcome(lambda: read_back(path), error)
        assert (path.name in said) if said is not None else same(found, expected), f"{len(damaged)} bytes: {said}"
        refused += said is not None
    path.write_bytes(content)
    assert same(read_back(path), expected)
    assert refused > 10


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def test_a_part_of_a_history(tmp_path):
    history = make(tmp_path)
    record(history, *range(1, 40))
    history.close()
    check(tmp_path / "part-00000.parquet", read_history, HistoryError, 17)


def test_some_matrices_of_a_part(tmp_path):
    """Of which only some pages are read."""
    history = make(tmp_path)
    record(history, *range(1, 40))
    history.close()
    path = tmp_path / "part-00000.parquet"
    check(path, lambda path: read_history(path, names=["b"], columns=["stable_rank"]), HistoryError, 23)


def test_a_ledger(tmp_path):
    Ledger.create(tmp_path, {"config": {"a": [1]}}, {"one": {"lr": 1.0}, "two": {"lr": 2.0}})
    ledger = Ledger.open(tmp_path)
    ledger.finish("one", Status.DONE, {"host": "here", "average_rank": 5.5}, 61.5)

    def read_back(path: Path) -> Any:
        ledger = Ledger.open(path.parent)
        return [(r.id, r.spec, r.status, r.result, r.seconds) for r in ledger.trials()], ledger.meta

    check(tmp_path / "trials.sqlite", read_back, LedgerError, 61)


def test_a_checkpoint_of_a_trial(tmp_path):
    save_checkpoint(tmp_path / "x.pt", {"epoch": 3, "model": WEIGHTS})
    check(tmp_path / "x.pt", load_checkpoint, CheckpointError, 31)


def test_a_data_set(tmp_path):
    part = Part(np.arange(192, dtype=np.uint8).reshape(3, 1, 8, 8), np.arange(3))
    info = DataInfo("x", "here", "", ("a", "b", "c"), 1, 8, 8, 3, 0, (0.5,), (0.5,), ())
    info = DataInfo(**{**vars(info), "digest": digest_of(info, {"train": part})})
    (tmp_path / "scratch").mkdir()
    write_set(tmp_path / "x.safetensors", tmp_path / "scratch", info, {"train": part})

    def read_back(path: Path) -> Any:
        train = read_parts(path, read_info(path, "x"))["train"]
        return {"x": train.x, "y": train.y}

    check(tmp_path / "x.safetensors", read_back, DataError, 11)


def test_a_file_of_factors(tmp_path):
    """Of which a part that is cut off is missed; it has no checksums."""
    factorize({"w.weight": torch.ones(6, 8), **WEIGHTS}, tmp_path / "x.safetensors", error=0.1)

    def read_back(path: Path) -> Any:
        pairs, others = read_factors(path)
        return {name: pair.multiplied() for name, pair in pairs.items()} | others

    check(tmp_path / "x.safetensors", read_back, AnalyzeError, 61, sealed=False)


def test_the_state_of_a_tracker():
    """As whoever saves it has it; it names no file, because it does not know one."""
    tracker = RankTracker(nn.Linear(3, 4), spectrum=["singular_values"])
    tracker.step()
    state, expected = tracker.state_dict(), tracker.to_arrow()
    refused = 0
    for damaged in chain(cut(state["packed"], 300), flipped(state["packed"], 29)):
        tracker = RankTracker(nn.Linear(3, 4), spectrum=["singular_values"])
        changed = {**state, "packed": damaged}
        _, said = outcome(lambda tracker=tracker, changed=changed: tracker.load_state_dict(changed), ValueError)
        assert "what is packed in it is damaged" in said if said else tracker.to_arrow().equals(expected)
        refused += said is not None
    assert refused > 50


@pytest.mark.parametrize("name", ["x.pt", "old.pt", "x.npz", "x.npy", "x.safetensors"])
def test_a_checkpoint_of_anybody(tmp_path, name):
    """Archives have checksums. Files of safetensors, one array, or PyTorch before 1.6 have none: what is promised of
    those is that one that is cut off is refused."""
    path = tmp_path / name
    match name:
        case "x.pt":
            torch.save(WEIGHTS, path)
        case "old.pt":
            torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
        case "x.npz":
            np.savez(path, w=np.eye(3), v=np.arange(12.0).reshape(3, 4))
        case "x.npy":
            np.save(path, np.eye(3))
        case "x.safetensors":
            save_file(WEIGHTS, path)
    check(path, read, AnalyzeError, 13, sealed=name in ("x.pt", "x.npz"))
