"""The file of factors: other programs read it, a header that lies is refused, and nothing else is changed in it."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import load_file

from fastrank import AnalyzeError, factorize, load_factorized
from fastrank.factors.file import DTYPE_NAMES, METADATA, read
from fastrank.testing import make

NAMES = ("plain", "dots.and.dots", 'quotes"in"it', "back\\slash", "new\nline", "\u00e9\u4e2d\U0001f600", "\x01" * 40)


def header_of(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), length


def low_rank(rows=20, cols=30, dtype=torch.float32):
    return make("low_rank", rows, cols, seed=1, dtype=dtype).matrix


def test_every_other_tensor_is_as_it_was(tmp_path):
    """All dtypes, no and all sizes, strides; each begins at a multiple of its element's size."""
    state = {f"of {dtype}": torch.arange(5).to(dtype) for dtype in DTYPE_NAMES}
    state |= {"scalar": torch.tensor(2.5), "nothing": torch.ones(0, 3), "strided": torch.arange(12.0).view(3, 4).T}
    state |= {"conjugate": torch.tensor([1 + 2j], dtype=torch.complex64).conj(), "one": torch.tensor([True])}
    torch.save({**state, "a.weight": low_rank()}, tmp_path / "x.pt")
    factorize(tmp_path / "x.pt", tmp_path / "y.safetensors", error=0.1)
    pairs, others = read(tmp_path / "y.safetensors")
    assert [*pairs] == ["a.weight"]
    assert others.keys() == state.keys()
    for name, x in state.items():
        assert (others[name].dtype, others[name].shape) == (x.dtype, x.shape), name
        assert others[name].resolve_conj().reshape(-1).view(torch.uint8).tolist() == (
            x.resolve_conj().reshape(-1).view(torch.uint8).tolist()
        )
    header, length = header_of(tmp_path / "y.safetensors")
    assert length % 8 == 0
    for name, entry in header.items():
        if name != "__metadata__" and name not in ("nothing",):
            size = next(dtype.itemsize for dtype, own in DTYPE_NAMES.items() if own == entry["dtype"])
            assert entry["data_offsets"][0] % size == 0, name


def test_names_of_any_signs_fit_into_the_header(tmp_path):
    state = {f"{name}.weight": low_rank() + i for i, name in enumerate(NAMES)}
    state |= {name: torch.ones(2) for name in NAMES}
    table = factorize(state, tmp_path / "y", error=0.5)
    assert (table["kept"] == "").all()
    loaded = load_file(tmp_path / "y")
    assert {*loaded} == {*NAMES, *(f"{name}.weight.{factor}" for name in NAMES for factor in "UV")}
    for row in table.itertuples():
        u, v = loaded[f"{row.name}.U"], loaded[f"{row.name}.V"]
        assert (state[row.name].double() - u.double() @ v.double()).norm() <= row.error
    rows = json.loads(header_of(tmp_path / "y")[0]["__metadata__"][METADATA])["matrices"]
    assert [row["name"] for row in rows] == table["name"].tolist()
    assert [row["relative_error"] for row in rows] == table["relative_error"].tolist()


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.eye(3).to_sparse(), "sparse_coo"),
        (torch.ones(2, dtype=torch.complex128), "complex128"),
        (torch.ones(2, device="meta"), "meta"),
        (torch.ones(1).expand(10**6, 10**6), "repeated"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "nested"),
        (torch.ones(2).as_subclass(type("Quantised", (torch.Tensor,), {})), "Quantised"),
    ],
    ids=["sparse", "complex", "meta", "repeated", "nested", "subclass"],
)
def test_what_cannot_be_written_is_named(tensor, said, tmp_path):
    with pytest.raises(AnalyzeError, match=f"odd: is a {said} tensor"):
        factorize({"a.weight": low_rank(), "odd": tensor}, tmp_path / "y", error=0.1)
    assert not (tmp_path / "y").exists()


def test_names_that_the_file_has_another_use_for_are_refused(tmp_path):
    for name in ("a.weight.U", "__metadata__"):
        with pytest.raises(AnalyzeError, match=f"{name}: a file of factors has another use"):
            factorize({"a.weight": low_rank(), name: torch.ones(2)}, tmp_path / "y", error=0.1)


def test_other_files_are_refused(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    (tmp_path / "x.bin").write_bytes(b"nothing")
    for name, said in (("x.pt", "is no file of factors"), ("x.bin", "is no checkpoint")):
        with pytest.raises(AnalyzeError, match=said):
            load_factorized(tmp_path / name, torch.nn.Linear(2, 2))
    with pytest.raises(OSError, match=r"none\.safetensors"):
        load_factorized(tmp_path / "none.safetensors", torch.nn.Linear(2, 2))
