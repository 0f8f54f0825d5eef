"""``fastrank.factorize``: which matrices of what become factors, what is said of the others, and what is an error."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastrank import AnalyzeError, Tolerance, factorize, load_factorized
from fastrank.testing import make, planted


def planted_rank(rows, cols, rank):
    sigma = torch.zeros(min(rows, cols), dtype=torch.float64)
    sigma[:rank] = torch.linspace(2, 1, rank)
    return planted(sigma, rows, cols, seed=rank)


@pytest.fixture
def state():
    return {
        "a.weight": planted_rank(40, 60, 7),
        "a.bias": torch.ones(40),
        "conv.weight": planted_rank(16, 27, 5).view(16, 3, 3, 3),
        "line.weight": planted_rank(20, 36, 4).view(20, 12, 3),
        "line.bias": torch.ones(20),
        "full.weight": planted_rank(30, 30, 30),
        "steps": torch.tensor(3),
    }


EXPECTED = {"a.weight": (7, 700), "conv.weight": (5, 215), "line.weight": (4, 224), "full.weight": (30, 900)}


def test_ranks_are_the_planted_ones_whatever_the_file(state, tmp_path):
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"m": torch.eye(3)}}}}, tmp_path / "x.pt")
    save_file(state, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **{name: x.numpy() for name, x in state.items()})
    (tmp_path / "parts").mkdir()
    for i, (name, x) in enumerate(state.items()):
        save_file({name: x}, tmp_path / "parts" / f"{i}.safetensors")
    for source in (*(tmp_path / name for name in ("x.pt", "x.safetensors", "x.npz", "parts")), state):
        for asked in ({"error": 1e-3}, {"tolerance": Tolerance(1e-3)}):
            table = factorize(source, tmp_path / "y", **asked)
            found = {row.name: (row.k, row.stored) for row in table.itertuples()}
            assert found == EXPECTED
            reasons = dict(zip(table["name"], table["kept"], strict=True))
            assert reasons == {**dict.fromkeys(EXPECTED, ""), "full.weight": "rank 30 saves nothing"}
            before = sum(x.numel() for x in state.values())
            saved = sum(state[name].numel() - stored for name, (_, stored) in EXPECTED.items())
            assert (table.attrs["parameters"], table.attrs["stored"]) == (before, before - saved)
            assert (table["relative_error"] < 1e-6).all()
    assert factorize(tmp_path / "x.pt", error=0.1).attrs["left_out"] == ["optimizer (optimizer state, 1 tensor)"]


def test_globs_choose_and_nothing_is_written_without_a_name(state, tmp_path):
    table = factorize(state, error=0.1, include=["*a.weight", "conv*"], exclude=["conv*"])
    assert table["name"].tolist() == ["a.weight"]
    assert table.attrs["kept"] == [f"{name} (not chosen)" for name in ("conv.weight", "line.weight", "full.weight")]
    assert [*tmp_path.iterdir()] == []


def test_what_is_no_weight_of_a_layer_is_kept_with_its_reason(tmp_path):
    low = planted_rank(20, 30, 2)
    kept = {
        "up.weight": (planted_rank(20, 27, 2).view(20, 3, 3, 3), "a transposed convolution"),
        "experts.weight": (torch.stack([low, low]), "a stack of matrices, or a convolution without a bias"),
        "many.weight": (low.view(20, 5, 6, 1, 1, 1), "6 axes"),
        "normed.weight_v": (low, "not called weight"),
        "normed.parametrizations.weight.original1": (low.clone(), "not called weight"),
        "rnn.weight_hh_l0": (low.clone(), "not called weight"),
        "whole.weight": (torch.ones(20, 30, dtype=torch.int64), "dtype int64"),
        "nothing.weight": (torch.ones(0, 30), "empty"),
    }
    tied = low.clone()
    state = {name: x for name, (x, _) in kept.items()}
    state |= {"up.bias": torch.ones(3), "one.weight": tied, "two.weight": tied, "nan.weight": low * torch.nan}
    table = factorize(state, tmp_path / "y", error=0.1)
    shared = [f"{name}.weight (shared by one.weight, two.weight)" for name in ("one", "two")]
    assert table.attrs["kept"] == [*(f"{name} ({reason})" for name, (_, reason) in kept.items()), *shared]
    (row,) = table.to_dict("records")
    assert (row["name"], row["kept"], row["stored"]) == ("nan.weight", "not finite", 600)
    assert pd.isna(row["k"])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Conv1d(12, 20, 3, bias=False)
        self.groups = nn.Conv2d(12, 20, 3, groups=4)
        self.attention = nn.MultiheadAttention(24, 2)
        self.words = nn.Embedding(40, 24)
        self.last = nn.Linear(24, 40)


def test_a_model_tells_of_its_layers_and_takes_all_that_became_factors(tmp_path):
    model = Model()
    with torch.no_grad():
        for x in model.parameters():
            if x.ndim > 1:
                x.copy_(planted_rank(*x.flatten(1).shape, 2).view(x.shape))
    table = factorize(model, tmp_path / "y", error=0.1)
    assert table["name"].tolist() == ["line.weight", "last.weight"]
    assert table["k"].tolist() == [2, 2]
    reasons = ("convolution of 4 groups", "type MultiheadAttention", "type NonDynamically", "type Embedding")
    assert all(reason in said for reason, said in zip(reasons, table.attrs["kept"], strict=True))
    loaded = load_factorized(tmp_path / "y", Model())
    assert torch.equal(loaded.words.weight, model.words.weight)
    assert [len(loaded.line), len(loaded.last)] == [2, 2]


def test_narrow_dtypes_stay_what_they_are(tmp_path):
    matrix = make("low_rank", 24, 60, seed=1).matrix
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        save_file({"a.weight": matrix.to(dtype)}, tmp_path / "x.safetensors")
        (row,) = factorize(tmp_path / "x.safetensors", tmp_path / "y", error=0.05).to_dict("records")
        assert (row["dtype"], row["kept"]) == (str(dtype).removeprefix("torch."), "")


def test_bad_calls_are_told_what_to_do(state, tmp_path):
    save_file(state, tmp_path / "x.safetensors")
    for asked in ({}, {"error": 0.1, "tolerance": Tolerance()}):
        with pytest.raises(TypeError, match="one of tolerance and error"):
            factorize(state, **asked)
    with pytest.raises(TypeError, match=r"expected a fastrank\.Tolerance, not 0\.1"):
        factorize(state, tolerance=0.1)
    for error in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="error: must be above 0"):
            factorize(state, error=error)
    with pytest.raises(TypeError, match="model: expected"):
        factorize(3, error=0.1)
    with pytest.raises(AnalyzeError, match="key: 'a' is for a state dict"):
        factorize(Model(), error=0.1, key="a")
    with pytest.raises(AnalyzeError, match="is the checkpoint itself"):
        factorize(tmp_path / "x.safetensors", tmp_path / "x.safetensors", error=0.1)
    for source in (tmp_path, tmp_path / "x.safetensors.index.json"):
        if source != tmp_path:
            source.write_text(json.dumps({"weight_map": dict.fromkeys(state, "x.safetensors")}))
        with pytest.raises(AnalyzeError, match="would be taken for a part of the checkpoint"):
            factorize(source, tmp_path / "y.safetensors", error=0.1)
    (tmp_path / "x.safetensors.index.json").unlink()
    with pytest.raises(OSError, match="none"):
        factorize(state, tmp_path / "none" / "y", error=0.1)
    with pytest.raises(AnalyzeError, match="has no 'b'"):
        factorize(state, error=0.1, key="b")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
