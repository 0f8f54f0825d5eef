"""The tracker's state, in every way of saving it; its numbers of steps; and what becomes of it in inference mode."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint

import fastrank
from fastrank import RankTracker


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5))


def by_file(state, into):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    into.load_state_dict(torch.load(file, weights_only=True))


def by_pickle(state, into):
    into.load_state_dict(pickle.loads(pickle.dumps(state)))


def by_copy(state, into):
    into.load_state_dict(copy.deepcopy(state))


@pytest.mark.parametrize("way", [by_file, by_pickle, by_copy])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_state_goes_through_every_way_of_saving(way, steps):
    tracker = RankTracker(model(), spectrum=["singular_values"])
    for _ in range(steps):
        tracker.step()
    other = RankTracker(model(), spectrum=["singular_values"])
    other.step()
    way(tracker.state_dict(), other)
    assert other.to_arrow().equals(tracker.to_arrow())
    assert other.latest() == tracker.latest()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize(("saved", "there"), [(5, 0), (0, 5), (3, 3), (300, 1)])
def test_a_distributed_checkpoint_takes_it_for_a_stateful(tmp_path, saved, there):
    tracker, other = RankTracker(model()), RankTracker(model())
    for steps, one in ((saved, tracker), (there, other)):
        for _ in range(steps):
            one.step()
    expected = tracker.to_arrow()
    checkpoint.save({"tracker": tracker}, checkpoint_id=tmp_path, no_dist=True)
    checkpoint.load({"tracker": other}, checkpoint_id=tmp_path, no_dist=True)
    assert other.to_arrow().equals(expected)
    other.step()
    assert other.latest()["0.weight"]["step"] == saved + 1


def test_other_shapes_are_refused_by_name():
    tracker = RankTracker(model())
    tracker.step()
    other = model()
    other[1] = nn.Linear(5, 7)
    resumed = RankTracker(other)
    with pytest.raises(ValueError, match=r"state_dict: 1\.weight is 5x5 there, and 7x5 in this model"):
        resumed.load_state_dict(tracker.state_dict())
    resumed.step()  # nothing was changed by the attempt
    assert resumed.latest()["1.weight"]["step"] == 1


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_say_what_to_do(how):
    net = model()
    tracker = RankTracker(net, fastrank.SGD(net.parameters(), lr=0.1))
    with pytest.raises(TypeError, match=r"cannot be copied or pickled; save its state_dict\(\)"):
        how(tracker)


def test_a_copy_of_a_followed_optimizer_and_model_has_no_tracker():
    net = model()
    optimizer = fastrank.SGD(net.parameters(), lr=0.1)
    tracker = RankTracker(net, optimizer)
    twin = copy.deepcopy((net, optimizer))
    twin[1].step()
    assert tracker.to_arrow().num_rows == 0


def test_made_and_read_in_inference_mode():
    net = model()
    optimizer = fastrank.SGD(net.parameters(), lr=0.1)
    with torch.inference_mode():
        tracker = RankTracker(net, optimizer, spectrum=["singular_values"], initial=True)
    for _ in range(3):
        net(torch.ones(2, 6)).sum().backward()
        optimizer.step()
        with torch.inference_mode():
            assert len(tracker.latest()) == 2
            tracker.load_state_dict(tracker.state_dict())
    with torch.inference_mode():
        tracker.step()
    optimizer.step()
    assert tracker.to_pandas().step.unique().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        net = model()
    tracker = RankTracker(net)
    for _ in range(2):
        tracker.step()
    net[0].weight.data.zero_()
    tracker.step()
    assert tracker.to_pandas().rank_lower.tolist() == [5, 5, 5, 5, 0, 5]


def test_the_trainers_own_number():
    tracker = RankTracker(model(), every=10)
    for step in (7, 8, 10, 25, 30):
        tracker.step(step=step)
    tracker.step()  # 31
    for _ in range(9):
        tracker.step()
    assert tracker.to_pandas().step.unique().tolist() == [7, 10, 30, 40]
    with pytest.raises(ValueError, match="step: must be at least 41, not 40"):
        tracker.step(step=40)
    with pytest.raises(TypeError, match="step"):
        tracker.step(step=50.0)
    tracker.step(torch.tensor(1.0), step=50)
    assert tracker.latest()["0.weight"]["step"] == 40


def test_the_trainers_own_number_goes_on_after_a_resume():
    tracker = RankTracker(model())
    tracker.step(step=100)
    other = RankTracker(model())
    other.load_state_dict(tracker.state_dict())
    other.step()
    assert other.to_pandas().step.unique().tolist() == [100, 101]


def test_a_captured_step_has_no_number_of_its_own(captured):
    tracker = RankTracker(model())
    tracker.step()
    with captured(), pytest.raises(ValueError, match="step: replays of a CUDA graph count by themselves"):
        tracker.step(step=5)


def test_a_row_before_the_first_step():
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    norm = net[0].weight.norm().item()
    tracker = RankTracker(net, optimizer, initial=True, every=2, spectrum=["effective_rank"], spectrum_every=2)
    for _ in range(3):
        net(torch.ones(2, 6)).sum().backward()
        optimizer.step()
    history = tracker.to_pandas()
    assert history.step.unique().tolist() == [0, 1, 2]
    assert history.frobenius_norm[0] == pytest.approx(norm)
    assert history.effective_rank.notna().all()
    assert RankTracker(net).latest() == {}


def test_a_training_whose_first_steps_no_tracker_saw():
    net = model()
    tracker = RankTracker(net, initial=True, first_step=8, every=5)
    for _ in range(4):
        tracker.step()
    assert tracker.to_pandas().step.unique().tolist() == [7, 8, 10]
    with pytest.raises(ValueError, match="first_step: must be at least 1"):
        RankTracker(net, first_step=0)


def test_the_first_step_is_due_after_a_state_that_was_taken_before_it():
    tracker = RankTracker(model(), first_step=8, every=5)
    state = tracker.state_dict()
    tracker = RankTracker(model(), first_step=8, every=5)
    tracker.load_state_dict(state)
    for _ in range(4):
        tracker.step()
    assert tracker.to_pandas().step.unique().tolist() == [8, 10]


def test_a_resumed_run_drops_the_row_that_it_began_with(tmp_path):
    net = model()
    with RankTracker(net, directory=tmp_path, initial=True) as tracker:
        tracker.step()
        tracker.flush()
        state = tracker.state_dict()
    with RankTracker(net, directory=tmp_path, initial=True) as tracker:  # as a script does that was started again
        tracker.load_state_dict(state)
        tracker.step()
    assert fastrank.read_history(tmp_path).to_pandas().step.unique().tolist() == [0, 1, 2]


def test_a_second_writer_is_refused(tmp_path):
    tracker = RankTracker(model(), directory=tmp_path / "ranks")
    with pytest.raises(fastrank.HistoryError, match="overwrite=True"):
        RankTracker(model(), directory=tmp_path / "ranks")
    tracker.step()
    tracker.close()
    with RankTracker(model(), directory=tmp_path / "ranks", overwrite=True) as tracker:
        tracker.step()
        tracker.step()
    assert fastrank.read_history(tmp_path / "ranks").to_pandas().step.unique().tolist() == [1, 2]
