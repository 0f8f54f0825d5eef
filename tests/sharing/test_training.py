"""Sharded models have the ranks of the same training unsharded, at every step."""

from __future__ import annotations

import pytest
import torch
from processes import IMPORTS, run
from sharded import (
    Llama,
    Mixed,
    assert_same,
    by_both,
    by_ddp,
    by_fsdp,
    by_old_fsdp,
    by_tensors,
    grid,
    line,
    rows_of,
    train,
    twins,
)
from torch import distributed

from fastrank.products import attention_qk


def compared(make, shard, mesh, steps=4, **options):
    """Trains both, and returns the way and owner of each matrix."""
    sharded, plain = twins(make, shard, mesh, **options)
    train(*sharded[:2], steps)
    train(*plain[:2], steps)
    own, expected = sharded[2], plain[2]
    assert_same(list(own.latest().values()), list(expected.latest().values()))
    if distributed.get_rank() == 0:
        assert_same(rows_of(own), rows_of(expected))
        assert any(row["rank_lower"] < min(row["rows"], row["cols"]) / 2 for row in rows_of(expected))
    plan = own._shared._plan
    if len(plan.matrices) * steps == len(rows_of(expected)) and all(p.requires_grad for p in sharded[0].parameters()):
        assert own._shared._ranks.moved == plan.sent(distributed.get_rank()) * steps
    own.close()
    return {matrix.name: (matrix.way, matrix.owner) for matrix in plan.matrices}


def beside(model):
    """Matrices that the model has no parameter for: some are gathered, and one is made of DTensors."""
    found = attention_qk(model, heads=4, query="*wq.weight", key="*wk.weight")
    return found | {"vo": lambda model: model.layers[1].wv.weight @ model.layers[0].wo.weight}


def everything(rank):
    torch.set_num_threads(1)
    spectra = ["effective_rank", "singular_values"]
    found = {"fsdp": compared(Llama, by_fsdp, line(), spectrum=spectra, track=beside)}
    found["tp"] = compared(Llama, by_tensors, line())
    now_and_then = {"spectrum": ["nuclear_norm"], "spectrum_every": 2}
    found["mixed"] = compared(Mixed, by_fsdp, line(), of=("weight", "gradient", "update"), **now_and_then)
    if distributed.get_world_size() == 4:
        found["fsdp x tp"] = compared(Llama, by_both, grid())
        found["hsdp"] = compared(Llama, by_fsdp, grid(("replicate", "shard")))
    found["ddp"] = compared(Llama, by_ddp, None, share=True)
    found["old"] = compared(Llama, by_old_fsdp, None, of=("weight", "gradient", "update"))
    return found


@pytest.mark.parametrize("processes", [2, 4])
def test_a_sharded_model_has_the_ranks_of_its_unsharded_twin(processes):
    found = run(everything, processes, timeout=120, imports=IMPORTS)
    for layout, plan in found[0].items():
        owners = {owner for _, owner in plan.values()}
        assert owners == set(range(processes)), layout
    assert all(other == found[0] for other in found)
