"""What a repr says is true, and it never fails."""

import math

import pytest

from fastrank.plotting import Standing, summary_html, summary_text

ROW = {"stable_rank": 3.25}


def standing(ranks, **more):
    """Matrices w0, w1, ... of 10 x 20; each has a rank, bounds, None (not finite), or no row ("missing")."""
    names = [f"w{i}" for i in range(len(ranks))]
    bounds = [rank if isinstance(rank, tuple) else (rank, rank) for rank in ranks]
    latest = {
        name: {**ROW, "rank_lower": low, "rank_upper": high}
        for name, (low, high) in zip(names, bounds, strict=True)
        if low != "missing"
    }
    known = {"model": "ResNet", "first": 1, "last": 4200, "schedule": "every 10", **more}
    return Standing(names=names, shapes=[(10, 20)] * len(names), latest=latest, **known)


@pytest.mark.parametrize(
    ("ranks", "end"),
    [
        ([7, 5, 9], "mean rank 70% of full, lowest w1 5 of 10; all certified"),
        ([7, (5, 6), 9], "mean rank 72% of full, lowest w1 5 to 6 of 10; 2 of 3 certified"),
        ([7, None, 9], "lowest w0 7 of 10; 1 not finite, the others certified"),
        ([(7, 8), math.nan, 9], "lowest w0 7 to 8 of 10; 1 not finite, 1 of 2 certified"),
        ([0, 10, 10], "mean rank 67% of full, lowest w0 0 of 10; all certified"),
    ],
)
def test_the_line_says_how_it_stands(ranks, end):
    line = "RankTracker: 3 matrices of ResNet, steps 1 to 4,200 (every 10), "
    assert summary_text(standing(ranks)) == line + end


def test_the_line_says_what_is_not_known():
    empty = standing(["missing"] * 2, first=None, last=None, schedule="")
    assert summary_text(empty) == "RankTracker: 2 matrices of ResNet, no step recorded yet"
    lost = standing([None], model="", schedule="")
    assert summary_text(lost) == "RankTracker: 1 matrix, steps 1 to 4,200; none is finite"
    one = summary_text(standing([3], first=4, last=4, schedule="", owner="runs"))
    assert one == "runs: 1 matrix of ResNet, step 4, mean rank 30% of full, lowest w0 3 of 10; all certified"


def test_a_row_without_any_column_is_no_error():
    bare = Standing(["w"], [(3, 4)], 1, 2, {"w": {}}, curves={"w": [1, None, math.nan, 2]})
    assert "none is finite" in summary_text(bare)
    assert "not finite" in summary_html(bare)


def test_the_table_has_a_row_a_matrix_and_escapes_names():
    row = {**ROW, "rank_lower": 5, "rank_upper": 5}
    known = Standing(["<b>&", "w"], [(10, 20)] * 2, 1, 9, {"<b>&": row, "w": row})
    html = summary_html(known)
    assert html.count("<tr>") == 3
    assert "<code>&lt;b&gt;&amp;</code>" in html
    assert "<b>" not in html
    assert "<td>50%</td><td>3.2</td>" in html
    assert "latest ranks" not in html
    curves = {"w": [10, 5, None, 0]}
    assert "<td>█▅·▁</td>" in summary_html(Standing(known.names, known.shapes, 1, 9, known.latest, curves=curves))


def test_of_many_matrices_those_of_lowest_rank_are_listed_and_the_others_counted():
    html = summary_html(standing([9] * 30 + [1, None]))
    assert html.count("<tr>") == 21
    assert "12 more of higher rank are left out" in html
    assert html.index("<code>w31</code>") < html.index("<code>w30</code>") < html.index("<code>w0</code>")
