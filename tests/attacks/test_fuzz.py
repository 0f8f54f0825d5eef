"""Malformed files of every kind that is read: an error of this library, or what is in the file; no crash and no hang.

The same few files at each run; `make fuzz` tries thousands.
"""

from __future__ import annotations

import os
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from attack_files import repacked, safetensors, saved
from damage import outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from made_history import make, record
from system_calls import status_of

from fastrank import AnalyzeError
from fastrank.analysis.checkpoint import of_checkpoint
from fastrank.analysis.parts import read
from fastrank.experiments.records import Ledger, Status
from fastrank.experiments.records.ledger import LedgerError
from fastrank.experiments.sweeps import config
from fastrank.history import HistoryError, read_history
from fastrank.weights import Choice

EXAMPLES = int(os.environ.get("FASTRANK_FUZZ", "25"))
bounded = settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)

WILD = [b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 2**60), struct.pack("<I", 2**31 - 1), b"\x7f" * 4]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "overwrite"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(WILD), st.binary(min_size=1, max_size=12)),
    ),
    min_size=1,
    max_size=3,
)


def changed(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, new in changes:
        i = int(where * len(content))
        match kind:
            case "flip" if content:
                content = content[:i] + bytes([content[i] ^ 1 << new[0] % 8]) + content[i + 1 :]
            case "cut":
                content = content[:i]
            case "insert":
                content = content[:i] + new + content[i:]
            case "repeat":
                content = content[: i + 10 * len(new)] + content[i:]
            case "overwrite":
                content = content[:i] + new + content[i + len(new) :]
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@cache
def history_in(folder: Path) -> tuple[bytes, bytes, Any]:
    """A part, the same as another program would write it, and its rows."""
    history = make(folder / "history")
    record(history, *range(1, 30))
    history.close()
    path = folder / "history" / "part-00000.parquet"
    table = read_history(path)
    pq.write_table(table, folder / "other.parquet", compression="zstd")
    return path.read_bytes(), (folder / "other.parquet").read_bytes(), table


@bounded
@given(CHANGES)
def test_parts_of_histories(folder, changes):
    content, _, table = history_in(folder)
    path = folder / "x.parquet"
    path.write_bytes(changed(content, changes))
    found, said = outcome(lambda: read_history(path), HistoryError)
    assert path.name in said if said else found.equals(table)


@bounded
@given(CHANGES)
def test_parquet_of_other_programs(folder, changes):
    """Which has no checksums; so in a process of its own, because pyarrow might crash."""
    _, content, _ = history_in(folder)
    path = folder / "y.parquet"
    path.write_bytes(changed(content, changes))

    def read_all():
        _, said = outcome(lambda: read_history(path), HistoryError)
        assert said is None or path.name in said

    assert status_of(read_all) == 0


@cache
def ledger_in(folder: Path) -> tuple[bytes, Any]:
    (folder / "ledger").mkdir()
    Ledger.create(folder / "ledger", {"config": {}}, {"one": {"lr": 1.0}, "two": {"lr": 2.0}})
    ledger = Ledger.open(folder / "ledger")
    ledger.finish("one", Status.DONE, {"average_rank": 5.5}, 61.5)
    return ledger.path.read_bytes(), results_in(folder / "ledger")


def results_in(folder: Path) -> Any:
    ledger = Ledger.open(folder)
    return [(record.id, record.spec, record.result, record.seconds) for record in ledger.trials()]


@bounded
@given(CHANGES)
def test_ledgers(folder, changes):
    content, expected = ledger_in(folder)
    (folder / "ledger" / "trials.sqlite").write_bytes(changed(content, changes))
    found, said = outcome(lambda: results_in(folder / "ledger"), LedgerError)
    assert "trials.sqlite" in said if said else found == expected


TOML = (Path(config.__file__).parents[1] / "configs" / "digits.toml").read_bytes()


@bounded
@given(CHANGES)
def test_configurations(folder, changes):
    path = folder / "x.toml"
    path.write_bytes(changed(TOML, changes))
    found, said = outcome(lambda: config.load_config(path), config.ConfigError)
    assert "x.toml" in said if said else len(found.trials()) >= 1


WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.eye(3, dtype=torch.bfloat16)}


def analysed(path: Path) -> None:
    """Read a checkpoint, and find its matrices."""

    def find():
        return of_checkpoint(path, read(path), None, Choice(), {})

    found, said = outcome(find, AnalyzeError)
    assert path.name in said if said else found.weights


@pytest.mark.parametrize("zipped", [True, False])
@bounded
@given(changes=CHANGES)
def test_checkpoints_of_torch(folder, zipped, changes):
    path = folder / f"{zipped}.pt"
    path.write_bytes(changed(saved(WEIGHTS, _use_new_zipfile_serialization=zipped), changes))
    analysed(path)


@bounded
@given(CHANGES)
def test_pickles_whose_checksums_are_right(folder, changes):
    """In a process of its own, because PyTorch rebuilds tensors of what the pickle says."""
    path = folder / "pickle.pt"
    path.write_bytes(repacked(saved(WEIGHTS), lambda content: changed(content, changes)))
    assert status_of(lambda: analysed(path)) == 0


NUMBERS = st.one_of(st.integers(0, 40), st.sampled_from([-1, 2**31, 2**62, 2**63, 2**64, 1.5, None]))
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "BF16", "I64", "BOOL", "X9"]),
        "shape": st.lists(NUMBERS, max_size=3),
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2),
    }
)


@bounded
@given(
    st.dictionaries(st.sampled_from(["w", "v", "", "__metadata__", "a/../b"]), ENTRY, max_size=3),
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    CHANGES,
    st.booleans(),
)
def test_headers_of_safetensors(folder, header, length, changes, valid):
    """What is read is what lies between the offsets that the header names."""
    body = np.arange(1.0, 11.0, dtype=np.float32).tobytes()
    if valid:
        header = {"w": {"dtype": "F32", "shape": [2, 5], "data_offsets": [0, 40]}}
    path = folder / "x.safetensors"
    whole = safetensors(header, body, length)
    path.write_bytes(changed(whole, changes) if valid else whole)
    analysed(path)
    if not valid:
        tensors, _ = outcome(lambda: read(path), AnalyzeError)
        for name, found in (tensors or {}).items():
            start, end = header[name]["data_offsets"]
            assert found.contiguous().view(-1).view(torch.uint8).numpy().tobytes() == body[start:end]
