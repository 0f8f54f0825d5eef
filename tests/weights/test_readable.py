"""What has no rank is left out and named; what has one that cannot be read here is an error with its cure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastrank
from fastrank import RankTracker


@pytest.fixture
def process_group(tmp_path):
    """A group of this process alone."""
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_an_uninitialised_parameter_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"'1\.weight' is not initialised yet; run the model once .* exclude="):
        RankTracker(model)
    assert RankTracker(model, exclude=["1.weight"]).names == ["0.weight"]
    with pytest.raises(ValueError, match=r"'weight' is not initialised yet"):
        RankTracker(nn.LazyConv2d(3, 3))


def test_a_parameter_on_the_meta_device_is_named():
    model = nn.Sequential(nn.Linear(8, 8)).to("meta")
    with pytest.raises(ValueError, match=r"'0\.weight' is on the meta device .* model\.to_empty"):
        RankTracker(model)
    model = nn.Sequential(nn.Linear(2, 2))
    tracker = RankTracker(model)
    model.to("meta")
    with pytest.raises(RuntimeError, match=r"tracked parameter '0\.weight' is on the meta device"):
        tracker.step()


def test_a_parameter_that_was_sharded_after_its_tracker_was_made_is_named(process_group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tracker = RankTracker(model)
    fully_shard(model[1], mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises((ValueError, RuntimeError), match=r"'1\.weight' is sharded over several processes"):
        tracker.step()
    with pytest.raises(ValueError, match=r"'1\.weight' is sharded over several processes"):
        fastrank.analyze(model)
    assert RankTracker(model, exclude=["1.weight"]).names == ["0.weight"]


def test_a_sharded_model_of_one_process_is_tracked(process_group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    tracker = RankTracker(fully_shard(nn.Sequential(nn.Linear(4, 5)), mesh=init_device_mesh("cpu", (1,))))
    tracker.step()
    assert tracker.latest()["0.weight"]["rank_lower"] == 4


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning", "ignore:.*NO_SHARD:FutureWarning")
def test_flattened_shards_are_named(process_group):
    from torch.distributed.fsdp import FullyShardedDataParallel

    wrapped = FullyShardedDataParallel(nn.Sequential(nn.Linear(4, 4)), device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"FullyShardedDataParallel keeps flat parameters .* use_orig_params=True"):
        RankTracker(wrapped)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_a_quantised_module_is_named():
    from torch.ao.nn.quantized.dynamic import Linear

    model = nn.Sequential(nn.Linear(4, 4), Linear(4, 4))
    with pytest.raises(ValueError, match=r"'1\.weight' is packed in a quantised module, Linear, .* exclude="):
        RankTracker(model)
    assert RankTracker(model, exclude=["1.*"]).names == ["0.weight"]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_quantised_numbers_are_left_out_and_named(dtype):
    """As the frozen base of QLoRA keeps them: the adapters beside it are tracked."""
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].base = nn.Parameter(torch.ones(8, 1, dtype=dtype), requires_grad=False)
    tracker = RankTracker(model)
    assert tracker.names == ["0.weight"]
    assert f"(dtype {str(dtype).removeprefix('torch.')})" in {c.reason for c in tracker.coverage()}


def test_a_sparse_parameter_is_left_out_and_named():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].mixing = nn.Parameter(torch.eye(4).to_sparse())
    assert {c.reason for c in RankTracker(model).coverage()} >= {"(layout sparse_coo)"}


def test_a_complex_parameter_is_left_out_and_named():
    model = nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64), nn.Linear(2, 2))
    tracker = RankTracker(model)
    assert tracker.names == ["1.weight"]
    assert tracker.coverage()[0].reason == "(dtype complex64)"


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_scripted_modules():
    """Of a convolution nobody can tell that it is one."""
    plain = RankTracker(torch.jit.script(nn.Sequential(nn.Linear(3, 4))))
    for _ in range(2):
        plain.step()
    assert plain.latest()["0.weight"]["rank_lower"] == 3
    with pytest.raises(ValueError, match=r"'1\.weight' is in a scripted module, .* before it is scripted"):
        RankTracker(torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Conv2d(3, 4, 2))))
