"""Attacks by files of factors, which `fastrank.load_factorized` reads: what the header says is compared with what is
there, before anything is multiplied or loaded."""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import save_file

from fastrank import AnalyzeError, load_factorized
from fastrank.factors.file import METADATA


def row(**changes):
    return {"name": "a.weight", "shape": [4, 6], "kept": "", **changes}


def told(*rows, version=1):
    return json.dumps({"version": version, "matrices": rows})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is no file of factors"),
        ("{", "cannot be read"),
        ("[" * 10**5, "cannot be read"),
        ("7", "cannot be read"),
        (told({}), "cannot be read"),
        (told(row(shape=None)), "cannot be read"),
        (told(row(name=[])), "cannot be read"),
        (told(version=2), "is of version 2"),
        (told(row(name="b.weight")), "has no factors of 'b.weight'"),
        (told(row(shape=[4, 7])), "has shape .* by the header"),
        (told(row(shape=[6, 4])), "has shape"),
        (told(row(shape=[4])), "has shape"),
        (told(row(shape=["4", 6])), "has shape"),
        (told(row(shape=[4, -6])), "has shape"),
        (told(row(shape=[4, 2, -3])), "has shape"),
        (told(row(shape=[4, 6.0])), "has shape"),
        (told(row(name="bad.weight")), "has shape"),
    ],
)
def test_a_header_that_lies_is_refused(text, said, tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"a.weight.U": torch.ones(4, 2), "a.weight.V": torch.ones(2, 6)}
    tensors |= {"bad.weight.U": torch.ones(4, 2), "bad.weight.V": torch.ones(3, 6)}
    save_file(tensors, path, None if text is None else {METADATA: text})
    model = torch.nn.Module()
    with pytest.raises(AnalyzeError, match=said) as caught:
        load_factorized(path, model)
    assert str(path) in str(caught.value)


def test_a_product_that_would_fill_the_memory_is_not_made(tmp_path):
    """Two vectors of a megabyte, whose product takes a terabyte."""
    path, long = tmp_path / "x.safetensors", 2**19
    tensors = {"a.weight.U": torch.ones(long, 1), "a.weight.V": torch.ones(1, long)}
    save_file(tensors, path, {METADATA: told(row(shape=[long, long]))})
    started = time.process_time()
    with pytest.raises(AnalyzeError, match=r"a\.weight has shape \(524288, 524288\), and \(2, 3\) in the model"):
        load_factorized(path, torch.nn.ModuleDict({"a": torch.nn.Embedding(2, 3)}), dense=True)
    assert time.process_time() - started < 5
