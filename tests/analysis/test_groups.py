"""Where in a checkpoint the weights are: keys of every kind, and what is beside them said by name."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fastrank.analysis import AnalyzeError
from fastrank.analysis.groups import choose
from fastrank.weights.places import WRAPPERS

HERE = Path("x.pt")
W = torch.eye(2)


def names(state: Any, key: str | None = None) -> list[str]:
    return list(choose(HERE, state, key).tensors)


@pytest.fixture(scope="module")
def adam() -> dict[str, Any]:
    """The state of an optimizer that has made a step: two matrices and a number."""
    parameter = torch.nn.Parameter(torch.eye(2))
    parameter.grad = torch.eye(2)
    optimizer = torch.optim.Adam([parameter])
    optimizer.step()
    return optimizer.state_dict()


def test_a_key_leads_through_numbers_lists_and_dots() -> None:
    state = {
        "runs": [{"w": W}, {"w": W, "b": W}],
        "by_step": {10: {"w": W}, 100: {"u": W}},
        "layer.0": {"w": W},
        "layer": {"0": {"v": W}, "1": {"x": W}},
        "flat": {"layer.0.weight": W, "layer.0.bias": W},
    }
    assert names(state, "runs.1") == ["w", "b"]
    assert names(state, "by_step.100") == ["u"]
    assert names(state, "layer.0") == ["w"]  # the longest key that fits
    assert names(state, "layer.1") == ["x"]
    assert names(state, "flat.layer.0.weight") == ["flat.layer.0.weight"]  # there is but this tensor


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("runs.2", "there is no '2' among 0, 1"),
        ("runs.w", "there is no 'w' among 0, 1"),
        ("epoch.x", "there is no 'x' among a int"),
        ("run", "there is no 'run' among runs, epoch, many"),
        ("many.z", r"there is no 'z' among a0, .*a9, \.\.\.$"),
        ("epoch", "holds no tensors under epoch"),
    ],
)
def test_a_key_that_is_not_there_is_answered_with_those_that_are(key: str, reason: str) -> None:
    state = {"runs": [{"w": W}, {"w": W}], "epoch": 3, "many": {f"a{i}": W for i in range(1000)}}
    with pytest.raises(AnalyzeError, match=reason):
        choose(HERE, state, key)


def test_the_state_of_an_optimizer_is_left_out_by_name(adam: dict[str, Any]) -> None:
    beside = choose(HERE, {"model": {"w": W}, "optimizer": adam, "extra": {"opt_d": adam}}, None)
    assert list(beside.tensors) == ["w"]
    assert beside.left_out == ["optimizer (optimizer state, 3 tensors)"]
    within = choose(HERE, {"net": {"w": W}, "opt": adam, "optimizer_states": [adam, adam]}, None)
    assert list(within.tensors) == ["net.w"]
    assert within.left_out == ["opt (optimizer state, 3 tensors)", "optimizer_states (optimizer state, 6 tensors)"]
    below = choose(HERE, {"a": {"net": {"w": W}, "o": adam}}, "a")
    assert (list(below.tensors), below.left_out) == (["net.w"], ["a.o (optimizer state, 3 tensors)"])
    # What is no dictionary of state and param_groups is told by its name, and a weight may be called so.
    other = choose(HERE, {"w": W, "optim": {"exp_avg": [W, W]}, "optimizer.weight": W}, None)
    assert (list(other.tensors), other.left_out) == (["w", "optimizer.weight"], ["optim (optimizer state, 2 tensors)"])


def test_a_key_that_leads_to_an_optimizer_is_followed(adam: dict[str, Any]) -> None:
    state = {"model": {"w": W}, "optimizer": adam}
    assert names(state, "optimizer") == ["state.0.step", "state.0.exp_avg", "state.0.exp_avg_sq"]
    assert names(state, "optimizer.state.0") == ["step", "exp_avg", "exp_avg_sq"]
    assert names(adam) == names(state, "optimizer")  # a file with nothing else


def test_groups_that_are_not_looked_at_are_said_with_their_keys() -> None:
    state = {
        "state_dict": {"w": W},
        "model_ema": {"w": W, "b": W},
        "best so far": {"w": W},
        "rng": torch.ones(2),
        "n": 3,
    }
    chosen = choose(HERE, state, None)
    assert list(chosen.tensors) == ["w"]
    assert chosen.not_looked_at == {
        "model_ema": "averaged weights, 2 tensors",
        "best so far": "1 tensor",
        "rng": "1 tensor",
    }
    # Without a usual key everything is looked at, each group under its own name.
    everything = choose(HERE, {"net": {"w": W}, "ema": {"w": W}}, None)
    assert (list(everything.tensors), everything.not_looked_at) == (["net.w", "ema.w"], {})


def test_a_usual_key_without_tensors_is_passed_over() -> None:
    assert names({"model": {"name": "resnet18"}, "params": {"w": W}}) == ["params.w"]
    assert names({"model": {"name": "resnet18"}, "model_state_dict": {"w": W}}) == ["w"]


def test_a_checkpoint_may_be_a_list_or_a_tensor() -> None:
    assert names([W, {"w": W}]) == ["0", "1.w"]
    assert names(W) == ["tensor"]
    with pytest.raises(AnalyzeError, match="holds no tensors"):
        choose(HERE, [], None)


def test_two_tensors_of_one_name_are_an_error() -> None:
    for state in ({"a": {"b": W}, "a.b": W}, {"a": {0: W, "0": W}}):
        with pytest.raises(AnalyzeError, match=r"two tensors are called a\.[b0]: choose one by its key"):
            choose(HERE, state, None)


@pytest.mark.parametrize("wrapper", sorted(WRAPPERS))
def test_what_wrappers_put_into_names_is_taken_out(wrapper: str) -> None:
    assert names({f"{wrapper}.net.{wrapper}.w": W, "b": W}) == ["net.w", "b"]
    assert names({f"{wrapper}.w": W, "w": W}) == [f"{wrapper}.w", "w"]  # which alone tells the two apart
