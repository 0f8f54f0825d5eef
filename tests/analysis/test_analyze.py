"""Checkpoints of other people's models: what their matrices are, and what is said of a file that cannot be read."""

import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fastrank
from fastrank import AnalyzeError, analyze
from fastrank.analysis.layers import Split
from fastrank.experiments.training.checkpoint import save_checkpoint
from fastrank.testing.matrices import planted


def planted_rank(rows: int, cols: int, rank: int) -> torch.Tensor:
    sigma = torch.zeros(min(rows, cols), dtype=torch.float64)
    sigma[:rank] = torch.linspace(2, 1, rank)
    return planted(sigma, rows, cols, seed=rank)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {
        "first.weight": planted_rank(40, 60, 7),
        "first.bias": torch.ones(40),
        "conv.weight": planted_rank(16, 27, 5).view(16, 3, 3, 3),
        "experts": torch.stack([planted_rank(12, 20, 3), planted_rank(12, 20, 9)]),
        "steps": torch.zeros(2, 2, dtype=torch.int64),
    }


def ranks(checkpoint: Path, **options: object) -> dict[str, int]:
    found = analyze(checkpoint, **options)  # type: ignore[arg-type]
    assert (found.rank_lower == found.rank_upper).all()
    return dict(zip(found.name, found.rank_lower, strict=True))


EXPECTED = {"first.weight": 7, "conv.weight": 5, "experts[0]": 3, "experts[1]": 9}


def test_ranks_are_the_planted_ones_whatever_the_file(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "plain.pt")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": OrderedDict(state)}, tmp_path / "nested.pt")
    save_checkpoint(tmp_path / "sealed.pt", {"model": state, "optimizer": {"state": {0: {"m": torch.eye(3)}}}})
    save_file(state, tmp_path / "file.safetensors")
    (tmp_path / "parts").mkdir()
    for i, (name, tensor) in enumerate(state.items()):
        save_file({name: tensor}, tmp_path / "parts" / f"{i}.safetensors")
    for name in ("plain.pt", "legacy.pt", "nested.pt", "sealed.pt", "file.safetensors", "parts"):
        assert ranks(tmp_path / name) == EXPECTED, name


def test_a_key_and_globs_choose(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"model": state, "average": {"weights": [torch.eye(4), torch.eye(5)]}}, tmp_path / "x.pt")
    assert ranks(tmp_path / "x.pt", key="average.weights") == {"0": 4, "1": 5}
    assert ranks(tmp_path / "x.pt", include=["experts*"], exclude=None) == {"experts[0]": 3, "experts[1]": 9}
    assert "conv.weight" not in ranks(tmp_path / "x.pt", exclude=["conv*"])
    with pytest.raises(AnalyzeError, match=r"has no 'average\.biases': there is no 'biases' among weights"):
        ranks(tmp_path / "x.pt", key="average.biases")
    with pytest.raises(AnalyzeError, match=r"none of its 3 matrices is chosen: first\.weight, conv\.weight, experts"):
        ranks(tmp_path / "x.pt", include=["nothing"])


def test_metrics_are_those_of_the_spectrum(tmp_path: Path) -> None:
    torch.save({"w": torch.diag(torch.tensor([3.0, 1.0, 0.0]))}, tmp_path / "x.pt")
    (row,) = analyze(tmp_path / "x.pt").to_dict("records")
    assert (row["rows"], row["cols"], row["rank_lower"], row["status"]) == (3, 3, 2, "OK")
    assert row["spectral_norm"] == pytest.approx(3)
    assert row["nuclear_norm"] == pytest.approx(4)
    assert row["stable_rank"] == pytest.approx(10 / 9)
    assert row["participation_ratio"] == pytest.approx(100 / 82)
    assert analyze(tmp_path / "x.pt", tolerance=fastrank.Tolerance(0.5, "spectral")).rank_lower[0] == 1


def test_every_tensor_without_a_rank_has_its_reason(tmp_path: Path) -> None:
    pieces = [torch.eye(2), torch.ones(3, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested, quantised and CSR tensors are unfinished, and say so
        odd = {
            "meta": torch.empty(3, 3, device="meta"),
            "meta bias": torch.empty(3, device="meta"),
            "nested": torch.nested.nested_tensor(pieces),
            "jagged": torch.nested.nested_tensor(pieces, layout=torch.jagged),
            "csr": torch.eye(3).to_sparse_csr(),
            "quantised": torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
            "float8": torch.eye(3).to(torch.float8_e4m3fn),
            "complex": torch.eye(3, dtype=torch.complex64),
            "mask": torch.ones(3, 3, dtype=torch.bool),
            "empty": torch.empty(0, 3),
            "stack": torch.empty(0, 3, 3),
        }
        torch.save(
            {**odd, "counts": torch.arange(3), "number": torch.tensor(2.0), "w": torch.eye(2)}, tmp_path / "x.pt"
        )
        found = analyze(tmp_path / "x.pt")
    assert list(found.name) == ["w"]
    reasons = (
        "meta",
        "meta",
        "nested",
        "nested",
        "sparse_csr",
        "dtype qint8",
        "dtype float8_e4m3fn, without a weight_scale or weight_scale_inv",
        "dtype complex64",
    )
    reasons += ("dtype bool", "empty", "empty")
    listed = [f"{name} ({reason})" for name, reason in zip(odd, reasons, strict=True)]
    assert found.attrs["left_out"] == [*listed, "2 vectors and scalars"]
    torch.save({"counts": torch.ones(2, 2, dtype=torch.int8)}, tmp_path / "none.pt")
    with pytest.raises(AnalyzeError, match=r"no matrix whose rank could be counted: counts \(dtype int8\)"):
        analyze(tmp_path / "none.pt")


def test_tied_weights_are_measured_once_under_the_first_name_that_is_chosen(tmp_path: Path) -> None:
    shared = planted_rank(12, 8, 3)
    state = {
        "wte.weight": shared,
        "h.weight": shared.clone(),
        "lm_head.weight": shared,
        "half": shared[:6],
        "t": shared.T,
    }
    torch.save(state, tmp_path / "x.pt")
    found = analyze(tmp_path / "x.pt")
    assert list(found.name) == ["wte.weight", "h.weight", "half", "t"]
    assert found.attrs["left_out"] == ["lm_head.weight (the same tensor as wte.weight)"]
    chosen = analyze(tmp_path / "x.pt", exclude=["wte*", "h*", "t"])
    assert list(chosen.name) == ["lm_head.weight"]
    assert chosen.attrs["left_out"] == ["4 matrices that are not chosen"]


def test_fused_projections_are_cut_as_asked(tmp_path: Path) -> None:
    q, k, v = (planted_rank(8, 8, rank) for rank in (1, 3, 5))
    state = {
        "h.c_attn.weight": torch.cat([q, k, v], dim=1),
        "w": torch.cat([q, k]),
        "s.in_proj_weight": torch.cat([q, k, v]),
    }
    torch.save(state, tmp_path / "x.pt")
    attention = {f"s.in_proj_weight[{name}]": rank for name, rank in {"q": 1, "k": 3, "v": 5}.items()}
    split = {"*c_attn*": (3, 1), "w": ([8, 8], 0)}
    cut = {"h.c_attn.weight[0]": 1, "h.c_attn.weight[1]": 3, "h.c_attn.weight[2]": 5, "w[0]": 1, "w[1]": 3}
    assert ranks(tmp_path / "x.pt", split=split) == cut | attention
    # What is asked for takes the place of what names and shapes tell.
    for name in ("s.in_proj_weight", "*in_proj_weight"):
        asked = ranks(tmp_path / "x.pt", include=["s.*"], split={name: (["a", "b"], 0)})
        assert asked == {"s.in_proj_weight[a]": 4, "s.in_proj_weight[b]": 8}
    wrongs: dict[str, tuple[str, Split]] = {
        "none\\*": ("none*", (3, 0)),
        "3 equal parts": ("w", (3, 0)),
        "parts of 9, 8": ("w", ([9, 8], 0)),
        "axis 5": ("w", (2, 5)),
    }
    for reason, wrong in wrongs.items():
        with pytest.raises(AnalyzeError, match=rf"x\.pt: split: .*{reason}.*; it has h\.c_attn\.weight, w, "):
            ranks(tmp_path / "x.pt", split=dict([wrong]))


def test_a_file_that_cannot_be_read_is_named_with_the_reason(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 3), tmp_path / "module.pt")
    torch.save(state, tmp_path / "whole.pt")
    save_file(state, tmp_path / "whole.safetensors")
    for whole in ("whole.pt", "whole.safetensors"):
        content = (tmp_path / whole).read_bytes()
        (tmp_path / whole.replace("whole", "half")).write_bytes(content[: len(content) // 2])
    np.savez(tmp_path / "whole.npz", **{name: x.numpy() for name, x in state.items()})
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    for name, text in {"text": "no checkpoint", "hello": "hello world", "table": "epoch,loss\n1,2"}.items():
        (tmp_path / f"{name}.pt").write_text(text)
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    for name, reason in {
        "module.pt": "Save model.state_dict\\(\\) instead",
        "half.pt": "is not a whole checkpoint: it begins as an archive, .* its end is missing",
        "half.safetensors": "is not a whole .safetensors file",
        "half.npz": "is not a whole checkpoint: it begins as an archive, .* its end is missing",
        "empty.pt": "is not a whole checkpoint: it is empty",
        "text.pt": "is no checkpoint",
        "hello.pt": "is no checkpoint",
        "table.pt": "is no checkpoint",
        "numbers.pt": "holds no tensors",
        ".": "a folder with no .safetensors file in it",
    }.items():
        folder = tmp_path / "none" if name == "." else tmp_path / name
        (tmp_path / "none").mkdir(exist_ok=True)
        with pytest.raises(AnalyzeError, match=f"^{folder}: .*({reason})"):
            analyze(folder)
