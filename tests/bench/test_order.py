"""Which rows a run has, and in which order: what a deadline loses is the least telling."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import goals
import pytest

PATH = Path(__file__).parents[2] / "bench" / "conftest.py"


@pytest.fixture(scope="module")
def door():
    """bench/conftest.py under a name of its own."""
    spec = importlib.util.spec_from_file_location("front_door_of_bench", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(door, headline=False, **options):
    option = SimpleNamespace(operation=[], workload=[], provider=[], quick=False, ours=False, rivals=False)
    vars(option).update(options)
    asked = [row for row in door.by_importance(headline) if door._asked(option, *row)]
    return [(operation.name, workload, provider.name) for operation, workload, provider in asked]


def test_a_headline_run_has_what_the_goals_are_judged_by(door):
    ours = rows(door, headline=True, ours=True)
    assert ours[0] == ("rank", "resnet18-cifar", "fastrank.rank_bounds")
    workloads = {(operation, workload) for operation, workload, _ in ours}
    matrices = {"resnet18-cifar", "mlp-bn-10-100", "batch-640x512", "square-4096", "square-512", "square-1024"}
    matrices |= {"square-512-flat", "vit-b16"}
    assert set(goals.COUNTED) <= matrices
    assert {workload for operation, workload in workloads if operation == "rank"} == matrices
    large = {"resnet18-cifar", "batch-640x512", "square-4096", "vit-b16"}
    assert {workload for operation, workload in workloads if operation == "gram"} == large
    assert {("step", "vit-b16"), ("training", "resnet18-cifar-b128"), ("graph", "resnet18-cifar-b128")} <= workloads
    assert not {"norm", "spectrum"} & {operation for operation, _ in workloads}
    assert {(o, w) for o, w, _ in rows(door, headline=True, rivals=True)} == workloads - {
        ("graph", "resnet18-cifar-b128")
    }


def test_telling_rivals_come_first_on_every_workload(door):
    rivals = rows(door, headline=True, rivals=True)
    ranks = [(workload, provider) for operation, workload, provider in rivals if operation == "rank"]
    telling = ["torch.linalg.svdvals", "gram eigvalsh batched", "cusolver gram XsyevBatched"]
    assert [provider for _, provider in ranks[:3]] == telling
    telling += ["cupy gesvda", "gram LU signs", *(f"torch.linalg.svdvals {driver}" for driver in ("gesvda", "gesvd"))]
    workloads = door.OPERATIONS["rank"].headline
    first = ranks[: len(workloads) * len(telling)]
    assert {provider for _, provider in first} == set(telling)
    assert [workload for workload, _ in first[:: len(telling)]] == list(workloads)
    steps = [(workload, provider) for operation, workload, provider in rivals if operation == "step"]
    assert steps[:2] == [("resnet18-cifar", "torch SGD fused"), ("vit-b16", "torch SGD fused")]
    # Compiling takes long: whatever else tells much comes before, on every workload.
    compiled = [place for place, (*_, provider) in enumerate(rivals) if provider == "torch SGD compiled"]
    others = (*telling, "torch SGD fused", "torch.matmul by shape", "cublas dsyrk")
    last = max(place for place, (*_, provider) in enumerate(rivals) if provider in others)
    assert compiled == list(range(last + 1, last + 1 + len(compiled)))
    hooks = [place for place, (operation, *_) in enumerate(rivals) if operation == "training"]
    assert min(hooks) > max(compiled)


def test_a_rank_is_not_measured_twice_by_the_driver_that_pytorch_tries_first(door):
    by_driver = [operation for operation, _, provider in rows(door) if provider == "torch.linalg.svdvals gesvdj"]
    assert set(by_driver) == {"spectrum"}


def test_operations_that_are_named_come_in_the_order_of_what_they_tell(door):
    named = ["rank", "step", "gram", "lowrank", "training"]
    rivals = rows(door, headline=True, rivals=True, operation=named)
    first = [operation for operation, workload, _ in rivals if workload.startswith("resnet18-cifar")]
    assert list(dict.fromkeys(first)) == named


def test_ours_and_rivals_are_all_rows_once(door):
    every = rows(door)
    assert len(set(every)) == len(every)
    ours, rivals = rows(door, ours=True), rows(door, rivals=True)
    assert sorted(ours + rivals) == sorted(every)
    assert all(provider.startswith("fastrank") for *_, provider in ours)
    assert not any(provider.startswith("fastrank") for *_, provider in rivals)


def test_every_operation_has_its_first_workload_measured_before_any_second(door):
    every = rows(door, ours=True)
    ours = [row for row in every if "integer" not in row[2]]
    firsts = {(o.name, next(iter(o.workloads))) for o in door.OPERATIONS.values()}
    places = [i for i, (operation, workload, _) in enumerate(ours) if (operation, workload) in firsts]
    assert places == list(range(len(places)))
    # By integers whatever the device: after all that the device's own rule chooses.
    assert every[: len(ours)] == ours
    assert {operation for operation, *_ in every[len(ours) :]} == {"rank", "gram"}


def test_quick_runs_keep_to_the_quick_workloads(door):
    quick = rows(door, quick=True)
    assert {(o, w) for o, w, _ in quick} == {(o.name, w) for o in door.OPERATIONS.values() for w in o.quick}
    assert {w for _, w, _ in rows(door, quick=True, workload=["vit-b16"])} == {"vit-b16"}
