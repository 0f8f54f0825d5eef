"""`fastrank.analyze` of a model, of its state dict and of its file is the same table, and the model stays as it is."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations

import fastrank
from fastrank import AnalyzeError, analyze

COLUMNS = "name, rows, cols, rank_lower, rank_upper, stable_rank, spectral_norm, frobenius_norm, status, "
COLUMNS += "effective_rank, nuclear_norm, participation_ratio, layer_type"


@pytest.fixture
def model() -> nn.Module:
    """Every kind of layer whose matrices names and shapes tell as well, of ranks that are not full."""
    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {
        "linear": nn.Linear(12, 9),
        "conv": nn.Conv2d(4, 6, 3),
        "attention": nn.MultiheadAttention(8, 2),
        "gru": nn.GRU(6, 5),
        "normed": parametrizations.weight_norm(nn.Linear(7, 5)),
        "frozen": nn.Linear(6, 4).requires_grad_(False),
    }
    layers["tied"] = nn.Linear(12, 9)
    layers["tied"].weight = layers["linear"].weight
    with torch.no_grad():
        layers["linear"].weight.copy_(torch.randn(9, 4) @ torch.randn(4, 12))
        layers["frozen"].weight.copy_(torch.randn(4, 1) @ torch.randn(1, 6))
    return nn.ModuleDict(layers)


def test_a_model_its_state_dict_and_its_files_give_one_table(model: nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "x.pt")
    save_file({name: x.clone() for name, x in state.items() if not name.startswith("tied")}, tmp_path / "x.safetensors")
    arrays = {name: x.numpy() for name, x in state.items()}
    found = analyze(model)
    assert list(found.columns) == COLUMNS.split(", ")
    ranks = dict(zip(found.name, found.rank_lower, strict=True))
    assert len(ranks) == 14
    assert (ranks["linear.weight"], ranks["frozen.weight"], ranks["conv.weight"]) == (4, 1, 6)
    assert {"attention.in_proj_weight[q]", "gru.weight_hh_l0[n]", "normed.weight"} <= ranks.keys()
    others: list[Any] = [state, {"model": {"a": [state]}}, arrays]
    others += [tmp_path / "x.pt", str(tmp_path / "x.safetensors")]
    for other, prefix in zip(others, ("", "a.0.", "", "", ""), strict=True):
        table = analyze(other)
        table["name"] = table.name.str.removeprefix(prefix)
        table = table.set_index("name").loc[list(found.name)].reset_index()
        exact = ["name", "rows", "cols", "rank_lower", "rank_upper", "status"]
        pd.testing.assert_frame_equal(table[exact], found[exact])
        pd.testing.assert_frame_equal(table, found, rtol=1e-6)  # a norm is summed in another order


def test_a_model_says_what_is_left_out(model: nn.Module) -> None:
    parts = [f"normed.parametrizations.weight.original{i} (normed.weight is made from it)" for i in (0, 1)]
    tied = "tied.weight (the same parameter as linear.weight)"
    biases = "9 vectors and scalars"
    said = analyze(model).attrs
    assert said["left_out"] == [*parts, tied, biases]
    assert (said["not_looked_at"], said["scaled"], said["notes"], said["kept"]) == ({}, [], [], None)
    chosen = analyze(model, include=["linear*", "conv*"], exclude=["conv*"])
    assert list(chosen.name) == ["linear.weight"]
    assert chosen.attrs["left_out"] == [*parts, biases, "8 matrices that are not chosen"]


def test_what_stands_beside_the_parameters_is_named_by_its_key() -> None:
    state = {"model": {"w": torch.eye(3)}, "model_ema": {"w": torch.eye(2)}, "optimizer": {"m": torch.eye(3)}}
    found = analyze(state)
    assert found.attrs["not_looked_at"] == {"model_ema": "averaged weights, 1 tensor"}
    assert found.attrs["left_out"] == ["optimizer (optimizer state, 1 tensor)"]
    assert [list(analyze(state, key=key).rank_lower) for key in found.attrs["not_looked_at"]] == [[2]]


def test_a_model_is_not_changed_also_in_inference_mode(model: nn.Module) -> None:
    before = {name: (x.clone(), x._version) for name, x in model.state_dict().items()}
    attributes = [{**module.__dict__} for module in model.modules()]
    generator = torch.get_rng_state()
    table = analyze(model)
    assert torch.equal(torch.get_rng_state(), generator)
    with torch.inference_mode():
        pd.testing.assert_frame_equal(analyze(model), table)
        made = nn.Linear(3, 3)  # whose weight cannot become a parameter outside
        assert list(analyze(made).rank_lower) == [3]
    assert list(analyze(made).rank_lower) == list(analyze(made.state_dict()).rank_lower) == [3]
    assert all(torch.equal(x, before[n][0]) and x._version == before[n][1] for n, x in model.state_dict().items())
    assert [module.__dict__ for module in model.modules()] == attributes


def test_arrays_of_every_kind_are_read_or_named() -> None:
    readonly = np.eye(3)
    readonly.flags.writeable = False
    found = analyze(
        {
            "readonly": readonly,
            "backwards": np.diag([1.0, 1, 0, 0])[::-1],
            "other end": np.eye(3, dtype=">f4"),
            "half": np.eye(2, dtype=np.float16),
            "words": np.array([["x"]]),
            "counts": np.ones((2, 2), dtype=np.int32),
            "bias": np.ones(3),
        }
    )
    assert dict(zip(found.name, found.rank_lower, strict=True)) == {
        "readonly": 3,
        "backwards": 2,
        "other end": 3,
        "half": 2,
    }
    assert found.attrs["left_out"] == ["counts (dtype int32)", "words (dtype <U1)", "1 vector or scalar"]


def test_what_is_missing_stays_missing_and_counts_stay_counts(tmp_path: Path) -> None:
    for state in ({"nan": torch.full((2, 2), torch.nan)}, {"nan": torch.full((2, 2), torch.nan), "w": torch.eye(2)}):
        found = analyze(state)
        assert {str(found[name].dtype) for name in ("rows", "cols", "rank_lower", "rank_upper")} == {"Int64"}
        assert {str(found[name].dtype) for name in ("stable_rank", "nuclear_norm")} == {"float64"}
        assert found.rank_lower[0] is pd.NA
        assert np.isnan(found.stable_rank[0])
        assert found.status[0] == "NONFINITE"
    found.to_parquet(tmp_path / "x.parquet")
    read = pd.read_parquet(tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(read, found)
    assert read.attrs == found.attrs


def test_tensors_that_only_look_at_others_are_measured_as_they_look() -> None:
    z = torch.complex(torch.eye(3), torch.diag(torch.tensor([1.0, 2.0, 0.0])))
    assert z.conj().imag.is_neg()
    assert list(analyze({"z": z.conj().imag}).rank_lower) == [2]


def test_several_tolerances_and_a_device() -> None:
    tolerances = [fastrank.Tolerance(), fastrank.Tolerance(0.5, "spectral")]
    found = analyze({"w": torch.diag(torch.tensor([1.0, 0.2]))}, tolerance=tolerances, device="cpu")
    assert (found.rank_lower[0], found["rank_upper@0.5-spectral"][0]) == (2, 1)


@pytest.mark.skipif("energy" not in inspect.signature(fastrank.RankTracker).parameters, reason="no energy rank yet")
def test_an_energy_rank_is_a_column() -> None:
    assert list(analyze({"w": torch.diag(torch.tensor([3.0, 1.0, 1.0]))}, energy=0.8).energy_rank) == [1]


def test_errors_name_what_was_given() -> None:
    matrix = {"w": torch.eye(2)}
    for wrong, kind in ((3, "int"), (torch.eye(2), "Tensor"), ([matrix], "list"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"^model: expected a .*Module, a state dict or the path .*, not {kind}$"):
            analyze(wrong)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        analyze("nowhere.pt")
    for arguments, reason in (
        (({"epoch": 3},), "^state dict: holds no tensors$"),
        (({"x": torch.ones(2, 3, 3), "x[0]": torch.eye(3)},), r"^state dict: two matrices are called x\[0\]"),
        (({"b": torch.ones(2)},), "^state dict: has no matrix whose rank could be counted: 1 vector"),
        ((nn.BatchNorm1d(3),), "nothing to track"),
        ((nn.Linear(3, 3, device="meta"),), "'weight' is on the meta device"),
    ):
        with pytest.raises(AnalyzeError, match=reason):
            analyze(*arguments)
    with pytest.raises(AnalyzeError, match=r"^key: 'a' is for a state dict or a checkpoint"):
        analyze(nn.Linear(2, 2), key="a")
    for given in (matrix, nn.Linear(2, 2)):
        with pytest.raises(TypeError, match=r"^include: expected a list of globs"):
            analyze(given, include="w")
        with pytest.raises(TypeError, match=r"^split: expected a dict"):
            analyze(given, split=3)  # type: ignore[arg-type]
        with pytest.raises(AnalyzeError, match=r"^split: 'w' has a name twice"):
            analyze(given, split={"w": (["q", "q"], 0)})


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_file({"w": torch.eye(2)}, tmp_path / "x.safetensors")
    for package in ("pandas", "pyarrow", "safetensors"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=rf"{package} is needed: pip install 'fastrank\[history\]'") as caught:
                analyze(tmp_path / "x.safetensors")
            assert caught.value.name == package  # by which the command line knows it


@pytest.mark.filterwarnings("ignore")  # of packages that transformers imports
def test_a_transformer_is_the_same_however_it_is_given(tmp_path: Path) -> None:
    """Conv1D stores its weight as (inputs, outputs), the fused q, k and v side by side; the head is tied."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=61, n_positions=16, n_embd=12, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight.copy_(torch.randn(12, 3) @ torch.randn(3, 36))
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="4KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    split = {"*c_attn.weight": (["q", "k", "v"], 1)}
    found = analyze(model, split=split)
    assert len(found) == 2 + 2 * 6
    assert list(found.rank_lower[2:5]) == [3, 3, 3]
    for other in (model.state_dict(), tmp_path / "whole", tmp_path / "parts"):
        table = analyze(other, split=split).set_index("name").loc[list(found.name)].reset_index()
        pd.testing.assert_frame_equal(table, found, rtol=1e-9)
