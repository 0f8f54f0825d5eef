"""What happens around a sharded training when a rank fails, differs or is gone: every rank gets an error that says so,
and nobody waits in vain."""

from __future__ import annotations

import re
import signal

import pytest
from processes import Ended
from sharded_resumes import LOST

from fastrank import read_history


@pytest.fixture
def found(two_ranks):
    return [own["failures"] for own in two_ranks.found]


WHEN_MADE = "'0.weight' was 6 x 8, torch.float32 when this RankTracker was made, and is "
NOT_AS_IT_WAS = "RuntimeError: '0.weight' is not sharded as it was when this RankTracker was made: this process now has"
SLICE = "parameter '0.weight' is a slice of one that FullyShardedDataParallel has flattened: make the RankTracker with"
STEPS = "rank 0 has measured step 3 and rank 1 step 4: the trackers of all ranks have to be told of the same steps"


SAME = "the ranks that measure together need the same arguments, and rank 1 has"
WRONG = {
    "every": f"ValueError: every: {SAME} 2, rank 0 1",
    "tolerance": f"ValueError: tolerance: {SAME} (Tolerance(value=0.5",
    "steps differ": f"RuntimeError: {STEPS}",
    "unsharded": f"{NOT_AS_IT_WAS} all of it. Measure after the optimizer's step, when the weights are sharded again",
    "sharded later": "ValueError: '0.weight' is sharded over several processes: make a RankTracker on each of them",
    "shared, sharded later": f"{NOT_AS_IT_WAS} [Span(",
    "float64 later": f"RuntimeError: {WHEN_MADE}6 x 8, torch.float64 now: make a new one on all ranks",
    "flattened later": f"RuntimeError: tracked {SLICE}",
    "without its wrapper": f"ValueError: {SLICE} the model that it returns",
    "flat later": "RuntimeError: tracked parameter '0.weight' is no longer part of the model; make a new RankTracker",
    "flat": "ValueError: model: FullyShardedDataParallel keeps flat parameters in place of its weights; make it with",
    "share=word": "TypeError: share: expected None, True, False or a process group, not 'yes'",
    "share=number": "TypeError: share: expected None, True, False or a process group, not 1",
    "share=False": "ValueError: share: the weights are sharded over several processes, which have to measure them",
}


@pytest.mark.parametrize("case", WRONG)
def test_every_rank_is_told_what_is_wrong(found, case):
    for rank in range(2):
        assert found[rank][case].startswith(WRONG[case])


def test_a_rank_that_fails_before_it_meets_the_others_is_not_waited_for(found):
    assert found[1]["fails first"].startswith("ValueError: nothing to track")
    start = (
        "RuntimeError: rank 1 (of 2) takes no part any more: it failed to make its tracker: ValueError: nothing to tra"
    )
    assert found[0]["fails first"].startswith(start)
    assert found[0]["seconds"] < 20


@pytest.mark.parametrize("case", ["functions", "bfloat16 later"])
def test_what_is_the_same_on_all_ranks_or_exact_is_no_error(found, case):
    assert [found[rank][case] for rank in range(2)] == [None, None]


def test_a_rank_outside_the_group_is_told_so(found):
    assert found[1]["share=group"].startswith("ValueError: share: this process is not in the group; only those in it")


def test_no_rows_mix_steps(found):
    for rank in range(2):
        assert found[rank]["steps"] == [1, 1]
        assert found[rank]["spoilt"] == [(None, None, None)] * 2
        assert "takes no part any more: it failed at step" in found[rank]["after that"]


FAILURES = {
    "replaced": (2, 1, f"RuntimeError: {WHEN_MADE}9 x 8, torch.float32 now", "it failed at step 2: "),
    "again": (2, 1, f"RuntimeError: {WHEN_MADE}9 x 8, torch.float32 now", "it failed at step 2: "),
    "step too small": (2, 1, "ValueError: step: must be at least 2, not 1", "it failed at step 1: "),
    "closed": (2, 1, "", "its tracker was closed after step 1"),
    "training ended": (3, 1, "ValueError: the loss is NaN", "its training ended after step 2 with "),
    "no folder": (1, 0, "FileExistsError: ", "it failed to make its tracker: "),
    "earlier run": (2, 0, "HistoryError: ", "it failed at step 1: "),
    "alert": (2, 0, "ValueError: 0.weight is low", "it failed at step 1: "),
}
"""The step at which the other rank hears of it, the rank that fails, its own error, and what precedes that."""


@pytest.mark.parametrize("case", FAILURES)
def test_the_other_rank_is_told_who_has_failed_and_why(found, case):
    step, fails, error, before = FAILURES[case]
    assert (found[fails].get(case) or "").startswith(error)
    because = f"rank {fails} (of 2) takes no part any more: {before}{error}"
    assert found[1 - fails][case].startswith(f"RuntimeError: measuring step {step} failed: {because}")


def test_a_rank_that_makes_no_tracker_is_named(found):
    assert found[0]["none made"].startswith("RuntimeError: rank 1 (of 2) made no RankTracker within 1 s: ")
    assert found[1]["none made"].startswith("RuntimeError: the other ranks have given up: rank 1 (of 2) made no ")


def test_an_idle_rank_does_not_say_that_there_is_no_stop(found):
    assert found[0]["stop"] is None
    assert re.match("RuntimeError: should_stop: .* with share=True", found[1]["stop"])
    assert [found[rank]["no stop"] for rank in range(2)] == [None, None]


def test_a_rank_that_is_killed_is_named_and_what_was_measured_before_is_on_disk(two_ranks):
    (message, seconds), killed = two_ranks.ended
    assert killed == Ended(-signal.SIGKILL)
    because = (
        f"measuring step {LOST + 1} failed: rank 1 (of 2) did not come, and did not say why: it may have been killed"
    )
    assert message.startswith(f"RuntimeError: {because}")
    assert seconds < 40  # the timeout is 60
    for name, last in {"history": LOST, "ended": 2, "earlier0": 1}.items():
        steps = read_history(two_ranks.folder / name, columns=["step"])["step"].unique()
        assert steps.to_pylist() == list(range(1, last + 1))
