"""Containment: what a sketch proves holds for the exact ranks and the exact sigma_1, from its first step on."""

from __future__ import annotations

import pytest
import torch
from exact_cases import cases, inside

from fastrank.reference.noise import normal
from fastrank.reference.sketch import next_basis, prove, sketch, start
from fastrank.reference.sketch_top import top_bounds

NARROW = (torch.float16, torch.bfloat16, torch.float32)


@pytest.mark.parametrize("k", [8, 16])
def test_the_exact_rank_and_sigma_1_are_in_the_bounds(k):
    decided = 0
    for i, case in enumerate(cases(48, 20 + k, NARROW, least=1)):
        top = case.exact.singular_values()[0]
        rank = case.exact.rank(case.tolerance)
        basis = start(normal(i, case.matrix.shape[1], k, 0, -1)[None])
        for step in range(3):
            view = case.matrix.mT if step % 2 else case.matrix
            found = sketch(view[None], basis)
            proof = prove(found, basis, [case.tolerance])
            assert proof.rank_lower[0, 0] <= rank <= proof.rank_upper[0, 0], (case.name, step)
            assert inside(float(proof.top_low), top * top, float(proof.top_high)), (case.name, step)
            _, low, high = top_bounds(found, basis)
            assert inside(float(low), top * top, float(high)), (case.name, step)
            basis = next_basis(found, proof.top, normal(i, view.shape[0], k, 0, step)[None])
        decided += int(proof.rank_lower[0, 0] == proof.rank_upper[0, 0])
    assert decided > 16
