"""Sharded: DTensors get the answers of whole tensors, on every rank alike, and no more moves than has to."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from processes import run
from sharded_answers import (
    BY_GRAM,
    CASES,
    FUNCTIONS,
    MATRICES,
    MEASURED_BY_GRAM,
    NOT_BY_GRAM,
    RANKS,
    TIE,
    TINY,
    answer_or_error,
    asked,
    diagonal,
    fields,
    on_each_rank,
)

from fastrank import RankBounds, Status, linalg
from fastrank.reference import packed_size


def same(answer, expected, tolerance=0.0):
    """The same error, or the same integers, and values within `tolerance` of each other, relative."""
    assert isinstance(answer, str) == isinstance(expected, str)
    if isinstance(answer, str):
        assert answer == expected
        return
    assert type(answer) is type(expected)
    for a, b in zip(fields(answer), fields(expected), strict=True):
        # What is left of a singular value that is zero is rounding: a share of the largest.
        largest = b.abs().nan_to_num().amax().item() if b.numel() else 0.0
        within = tolerance * largest if b.is_floating_point() else 0
        torch.testing.assert_close(
            a, b, rtol=0 if not b.is_floating_point() else tolerance, atol=within, equal_nan=True
        )


@pytest.fixture(scope="module")
def found():
    """What each rank has found, all of it."""
    return run(on_each_rank, RANKS, timeout=120)


def test_all_ranks_have_the_same_answers(found):
    """Bit by bit, and none has moved more than another."""
    for one, other in pairwise(found):
        assert one.keys() == other.keys()
        for key in one.keys() - {"outside", "kept", "strided", "odd", "wrong"}:
            same(one[key][0], other[key][0])
            assert one[key][1:] == other[key][1:]
        for name, (answer, *moved) in one["strided"][1].items():
            same(answer, other["strided"][1][name][0])
            assert moved == list(other["strided"][1][name][1:])


@pytest.mark.parametrize(("place", "kind"), CASES)
def test_answers_are_those_of_the_whole_tensor(found, place, kind):
    """And nothing larger than the Gram has moved where it is to be used, but nothing else than the matrix elsewhere."""
    A = MATRICES[kind]
    for name, function in asked(place, kind).items():
        answer, sent, gathered = found[0][place, kind, name]
        small = place in MEASURED_BY_GRAM and kind not in NOT_BY_GRAM and name in BY_GRAM
        same(answer, answer_or_error(function, A), 1e-12 if small else 1e-15)
        if small:
            axes = 2 if place == "two axes, long" else 1
            assert (sent, gathered) == (axes * 8 * packed_size(min(A.shape[-2:])) * A.shape[:-2].numel(), 0)
        else:
            assert (sent, gathered) == (0, 1)


def test_thresholds_are_in_the_midst_of_the_spectra():
    """Negative control: counts that agree are no matter of course."""
    for name in ("rank_bounds", "spectral rank_bounds"):
        assert 0 < FUNCTIONS[name](MATRICES["tall"]).lower < 12
    assert 0 < FUNCTIONS["matrix_rank"](MATRICES["tall"]) < 12


@pytest.mark.parametrize(
    ("name", "whole", "tolerance"), [("tie", (1.0, 0.5, 0.25), TIE), ("tiny", (1.0, 0.5, 2.0**-33), TINY)]
)
def test_what_the_gram_leaves_open_is_settled_by_the_matrix(found, name, whole, tolerance):
    answer, _, gathered = found[0][name, False]
    assert (answer.upper - answer.lower, gathered) == (1, 0)
    answer, _, gathered = found[0][name, True]
    assert gathered == 1
    assert answer.status == Status.FALLBACK
    same(answer, linalg.rank_bounds(diagonal(*whole), tolerance))
    assert answer.certified == (name == "tiny")


def test_ranks_that_see_different_grams_have_one_answer(found):
    """None waits for others that have nothing to gather, or the reverse: to a Gram that is larger, 0.5 is no tie."""
    for one in found[1:]:
        for a, b in zip(one["odd"], found[0]["odd"], strict=True):
            same(a, b)
    first, last, sigma = found[0]["odd"]
    same(first, linalg.rank_bounds(diagonal(1.0, 0.5, 0.25), TIE))
    assert last.lower == last.upper == 3
    assert sigma[0] == 1.0


def test_lists_mix_all_ways(found):
    A = [MATRICES["tall"], MATRICES["tall"], MATRICES["wide"], MATRICES["zero"], diagonal(1.0, 0.5, 0.25)]
    for name, function in FUNCTIONS.items():
        answer, sent, gathered = found[0]["list", name]
        same(answer, function(A), 1e-12)
        assert gathered == (1 if name in BY_GRAM else 4)
        assert (sent > 0) == (name in BY_GRAM)
    answer, _, gathered = found[0]["list", "tie"]
    same(answer, linalg.rank_bounds(A, TIE))
    assert answer.certified.tolist() == [True, True, True, True, False]
    assert gathered == 2


def test_strided_shards_of_two_kinds_of_parallelism(found):
    kinds, answers = found[0]["strided"]
    assert "_StridedShard" in kinds
    for name, function in FUNCTIONS.items():
        answer, sent, gathered = answers[name]
        same(answer, function(MATRICES["tall"]), 1e-12 if name in BY_GRAM else 1e-15)
        assert (sent, gathered) == ((2 * 8 * packed_size(12), 0) if name in BY_GRAM else (0, 1))


def test_arguments_stay_and_answers_are_plain(found):
    for one in found:
        *kept, norm = one["kept"]
        assert kept == [True, True, True]
        same(norm, linalg.spectral_norm(MATRICES["tall"]))


def test_a_rank_outside_of_the_mesh_is_told_so(found):
    """The others have their answers, that of the list too, for which all ranks have gathered the first matrix."""
    norm = linalg.spectral_norm(MATRICES["tall"])
    for rank in (1, 3):
        same(found[rank]["outside"][0], norm, 1e-12)
        same(found[rank]["outside"][1], torch.stack([norm, norm]), 1e-12)
    for rank in (0, 2):
        for name, error in zip(("A", "A[1]"), found[rank]["outside"], strict=True):
            assert error.startswith(f"ValueError: {name}: rank {rank} is not in the mesh of this DTensor")
            assert "only the ranks [1, 3] can" in error


def test_what_is_refused_is_refused_on_every_rank(found):
    for one in found:
        for error, text in zip(
            one["wrong"], ("A: a tensor on the meta", "A[0]: dtype int32", "A[0]: a list"), strict=True
        ):
            assert f"Error: {text}" in error
        assert "ValueError: A: matrix 0 of the batch holds NaN" in one["one axis, long", "batch", "matrix_rank"][0]


def test_bounds_keep_their_kind(found):
    assert isinstance(found[0]["list", "rank_bounds"][0], RankBounds)
    assert found[0]["one axis, long", "batch", "rank_bounds"][0].lower.shape == (1, 3)
