"""Columns: as many as a rank asks for, where that pays."""

import pytest

from fastrank.kernels.limits import KS
from fastrank.measuring.basis_size import COMPLETE, ROOM, basis_size
from fastrank.reference.sketch import noise_columns

CASES = [
    # (rank, r, now) -> k. Small sides have a complete basis, whatever the rank.
    ((0, 1, 0), 16),
    ((16, 16, 0), 16),
    ((3, 17, 0), 32),
    ((33, 33, 0), 64),
    ((64, 64, 16), 64),
    # Nothing is known: the least. 12 + 2 fit into 14 of 16, 13 do not.
    ((0, 65, 0), 16),
    ((12, 512, 0), 16),
    ((13, 512, 0), 32),
    ((26, 512, 0), 32),
    ((27, 512, 0), 64),
    ((54, 512, 0), 64),
    ((55, 512, 0), 128),
    ((110, 512, 0), 128),
    # No number of columns is enough, or none that pays: the least.
    ((111, 512, 0), 16),
    ((512, 512, 128), 16),
    ((27, 127, 0), 16),
    ((27, 128, 0), 64),
    ((55, 255, 0), 16),
    ((55, 256, 0), 128),
    # A basis that is there already stays until the rank is below 0.8 of what would do.
    ((12, 512, 32), 32),
    ((10, 512, 32), 32),
    ((9, 512, 32), 16),
    ((20, 512, 64), 32),
    ((21, 512, 64), 64),
    ((42, 512, 128), 64),
    ((43, 512, 128), 128),
    ((43, 512, 64), 64),
]


@pytest.mark.parametrize(("arguments", "k"), CASES, ids=lambda x: "-".join(map(str, x)) if isinstance(x, tuple) else "")
def test_columns_by_rank_size_and_what_is_there(arguments, k):
    assert basis_size(*arguments) == k


def test_what_is_chosen_has_room_for_the_rank_or_is_the_least():
    for r in range(1, 300, 7):
        for rank in range(r + 1):
            for now in (0, *KS):
                k = basis_size(rank, r, now)
                assert k in KS
                if r <= COMPLETE:
                    assert r <= k
                elif k > KS[0]:
                    assert rank + ROOM <= k - noise_columns(k)
                    assert 2 * k <= r


def test_a_rank_that_wavers_does_not_change_the_columns_to_and_fro():
    for rank in range(2, 110):
        k = basis_size(rank, 512)
        assert basis_size(rank - 1, 512, k) == k
