"""Weights of float8 are what their scales make of them, exactly; whatever else is packed is left out by name."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from fastrank import AnalyzeError, analyze
from fastrank.analysis.scales import multiplied, scales_of
from fastrank.testing.matrices import planted

FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


def planted_rank(rows: int, cols: int, rank: int) -> torch.Tensor:
    sigma = torch.zeros(min(rows, cols), dtype=torch.float64)
    sigma[:rank] = 1
    return planted(sigma, rows, cols, seed=rank)


SCALES = {
    "one a tensor": ((), (300, 200)),
    "one a row": ((300, 1), (300, 200)),
    "one a block of 128 x 128": ((3, 2), (300, 200)),
    "one a matrix": ((2, 1, 1), (2, 30, 20)),
}


@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize("per", SCALES)
def test_the_product_is_exact(per: str, dtype: torch.dtype) -> None:
    """Against Python's integers: every element of the product is a fraction of a power of two."""
    scales, shape = SCALES[per]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    for scale in (torch.rand(scales, generator=generator) + 0.1, torch.full(scales, 0.25)):
        assert scales_of(x.shape, scale.shape) == per
        found = multiplied(x, scale)
        full = scale.double()
        if per.startswith("one a block"):
            full = torch.stack([full[i // 128].repeat_interleave(128)[: shape[1]] for i in range(shape[0])])
        else:
            full = full.expand(shape) if full.ndim else torch.full(shape, float(full))
        for i in torch.randint(x.numel(), (50,), generator=generator).tolist():
            a, b = (float(y.double().flatten()[i]).as_integer_ratio() for y in (x, full.contiguous()))
            c = float(found.double().flatten()[i]).as_integer_ratio()
            assert a[0] * b[0] * c[1] == c[0] * a[1] * b[1]
    assert found.dtype == torch.float32  # which holds a product with a power of two


def test_a_checkpoint_of_float8_is_measured_as_its_product(tmp_path: Path) -> None:
    whole = planted_rank(200, 260, 5)
    blocks = torch.full((2, 3), 0.037)
    blocks[1, 2] = 300.0
    full = blocks.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :260]
    stored = (whole.float() / full * 64).to(torch.float8_e4m3fn)
    state = {
        "layers.0.q_proj.weight": stored,
        "layers.0.q_proj.weight_scale_inv": blocks,
        "layers.0.k_proj.weight": stored[:60].clone(),
        "layers.0.k_proj.weight_scale": torch.rand(60, 1).bfloat16() + 1,
        "layers.0.v_proj.weight": stored[:, :70].contiguous().to(torch.float8_e5m2),
        "layers.0.v_proj.weight_scale": torch.tensor(2.0),
    }
    save_file(state, tmp_path / "x.safetensors")
    found = analyze(tmp_path / "x.safetensors")
    products = {
        "layers.0.k_proj.weight": stored[:60].double() * state["layers.0.k_proj.weight_scale"].double(),
        "layers.0.q_proj.weight": stored.double() * full.double(),
        "layers.0.v_proj.weight": state["layers.0.v_proj.weight"].double() * 2,
    }
    expected = analyze({name: products[name] for name in found.name})
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=1e-7)
    assert found.rank_lower.tolist() == expected.rank_lower.tolist()
    assert found.attrs["scaled"] == [
        "1 weight of float8_e4m3fn, each number times its weight_scale (one a row)",
        "1 weight of float8_e4m3fn, each number times its weight_scale_inv (one a block of 128 x 128)",
        "1 weight of float8_e5m2, each number times its weight_scale (one a tensor)",
    ]
    parts = {name: f"{name} (part of {name.rpartition('_scale')[0]})" for name, x in state.items() if x.ndim == 2}
    listed = [parts[name] for name in sorted(state) if "scale" in name and name in parts]
    assert sorted(found.attrs["left_out"]) == sorted([*listed, "1 vector or scalar"])
    # A negative control: without the scales there is another rank.
    assert analyze({"w": stored.float()}).rank_lower[0] != expected.rank_lower[1]


def test_what_is_packed_is_named_and_so_are_its_tables(tmp_path: Path) -> None:
    words, few = torch.zeros(8, 32, dtype=torch.int32), torch.ones(2, 32, dtype=torch.float16)
    octets = torch.zeros(64, 1, dtype=torch.uint8)
    state = {
        "gptq.qweight": words,
        "gptq.qzeros": words,
        "gptq.scales": few,
        "gptq.g_idx": torch.zeros(64, dtype=torch.int32),
        "ct.weight_packed": words,
        "ct.weight_scale": few,
        "ct.weight_shape": torch.tensor([8, 32]),
        "experts.down_blocks": torch.zeros(2, 4, 4, 16, dtype=torch.uint8),
        "experts.down_scales": torch.zeros(2, 4, 4, dtype=torch.uint8),
        "bnb4.weight": octets,
        "bnb4.weight.absmax": torch.ones(4, 2),
        "bnb4.weight.quant_map": torch.ones(16),
        "bnb8.weight": torch.zeros(4, 4, dtype=torch.int8),
        "bnb8.SCB": torch.ones(4),
        "w8.weight": torch.zeros(4, 4, dtype=torch.int8),
        "w8.weight_scale": torch.ones(4, 1),
        "nv.weight": octets,
        "nv.weight_scale": torch.ones(4, 4).to(torch.float8_e4m3fn),
        "nv.weight_scale_2": torch.tensor(1.0),
        "odd.weight": torch.ones(30, 40).to(torch.float8_e4m3fn),
        "odd.weight_scale": torch.ones(7, 3),
        "bare.weight": torch.ones(30, 40).to(torch.float8_e5m2),
        "both.weight": torch.ones(3, 4).to(torch.float8_e5m2),
        "both.weight_scale": torch.tensor(4.0),
        "both.weight_scale_inv": torch.tensor(0.25),
        "norm.weight": torch.ones(8),
        "plain.weight": torch.eye(3),
    }
    save_file({name: x.clone() for name, x in state.items()}, tmp_path / "x.safetensors")
    found = analyze(tmp_path / "x.safetensors")
    assert list(found.name) == ["plain.weight"]
    reasons = {
        "gptq.qweight": "dtype int32, packed by GPTQ or AWQ",
        "gptq.qzeros": "part of gptq.qweight",
        "gptq.scales": "part of gptq.qweight",
        "ct.weight_packed": "dtype int32, packed by compressed-tensors",
        "ct.weight_scale": "part of ct.weight_packed",
        "experts.down_blocks": "dtype uint8, packed as MXFP4",
        "experts.down_scales": "part of experts.down_blocks",
        "bnb4.weight": "dtype uint8, packed by bitsandbytes",
        "bnb4.weight.absmax": "part of bnb4.weight",
        "bnb8.weight": "dtype int8, packed by bitsandbytes",
        "w8.weight": "dtype int8, with weight_scale: quantised, or packed",
        "w8.weight_scale": "part of w8.weight",
        "nv.weight": "dtype uint8, with weight_scale: quantised, or packed",
        "nv.weight_scale": "part of nv.weight",
        "odd.weight": "dtype float8_e4m3fn, with a weight_scale of shape 7 x 3 that is not known",
        "odd.weight_scale": "part of odd.weight",
        "both.weight": "dtype float8_e5m2, with weight_scale_inv and weight_scale, which together are not known",
        "bare.weight": "dtype float8_e5m2, without a weight_scale or weight_scale_inv",
    }
    said = found.attrs["left_out"]
    assert sorted(said[:-1]) == sorted(f"{name} ({reason})" for name, reason in reasons.items())
    assert said[-1] == "8 vectors and scalars"
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(AnalyzeError, match="is a GGUF file, whose weights are packed"):
        analyze(tmp_path / "x.gguf")
