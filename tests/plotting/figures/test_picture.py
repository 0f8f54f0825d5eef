"""`fastrank.plot`: the numbers under the pictures are the history's, whatever it is given as."""

import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from planted_history import planted

import fastrank
from fastrank.plotting.figures import Source, average_values, cells, spectra, styled


def falling(step, matrix):
    """From 100 at step 0 to 100 - 10 * matrix at step 100."""
    return 100 - matrix * step // 10


@pytest.fixture
def table():
    return planted(range(1, 101), 3, falling, spectra=(1, 50, 100))


def drawn(history, **how):
    """The picture, drawn to the last dot: a warning on the way is an error."""
    figure = fastrank.plot(history, **how)
    figure.savefig(io.BytesIO(), dpi=20)
    return figure


def test_every_form_of_a_history_is_the_same_history(table, tmp_path):
    fastrank.write_history(table, tmp_path / "all.parquet")
    (tmp_path / "parts").mkdir()
    for i, start in enumerate((0, 150)):
        fastrank.write_history(table.slice(start, 150), tmp_path / "parts" / f"part-{i:05d}.parquet")

    class Tracker:
        tolerances = (fastrank.Tolerance(1e-3),)

        def to_arrow(self):
            return table

    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    expected = cells(Source(table).digest())
    np.testing.assert_array_equal(expected["mean"], [falling(step, i) for i in range(3) for step in range(1, 101)])
    folder = tmp_path / "parts"
    for form in (tmp_path / "all.parquet", str(folder), sorted(folder.iterdir()), table.to_pandas(), Tracker()):
        assert cells(Source(form).digest()).equals(expected)
        assert len(spectra(Source(form))) == 6
    assert len(cells(Source(shuffled).digest())) == len(expected)
    assert average_values(Source(shuffled).digest()).equals(average_values(Source(table).digest()))


def test_all_that_was_recorded_is_in_one_figure(table):
    before = dict(matplotlib.rcParams)
    figure = drawn(table)
    assert isinstance(figure, Figure)
    assert dict(matplotlib.rcParams) == before
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert panels.keys() == {"", "layer.0", "layer.1", "layer.2"}
    assert len(figure.axes) == 3 + 3  # the heat map, its colour bar and the average; the spectra
    assert [text.get_text() for text in panels["layer.2"].texts] == ["100 $\\times$ 107, rank 100 → 80"]


def test_each_kind_is_a_picture_of_its_own(table):
    assert len(fastrank.plot(table, kind="heat_map").axes) == 2  # with its colour bar
    (average,) = fastrank.plot(table, kind="average").axes
    curves = {line.get_label(): line.get_ydata()[-1] for line in average.lines}
    assert sorted(curves.values()) == pytest.approx([0.8, 0.9, 1.0])
    assert [text.get_text() for text in average.texts] == ["average 90%", "layer.0 100%", "layer.2 80%"]
    assert len(fastrank.plot(table, kind="spectra").axes) == 3


def test_where_all_matrices_are_alike_one_stands_for_lowest_and_highest():
    figure = fastrank.plot(planted(range(1, 5), 2, lambda step, i: 100), kind="average")
    assert [text.get_text() for text in figure.axes[0].texts] == ["average 100%", "layer.0 100%"]


def test_only_the_matrices_that_are_named_are_drawn(table, tmp_path):
    fastrank.write_history(table, tmp_path / "all.parquet")
    for form in (table, tmp_path / "all.parquet"):
        figure = fastrank.plot(form, names=["layer.1.weight"], kind="average")
        assert [text.get_text() for text in figure.axes[0].texts] == ["average 90%"]
        with pytest.raises(fastrank.HistoryError, match=r"no matrix 'layer\.7'"):
            fastrank.plot(form, names=["layer.7"])


@pytest.mark.parametrize("steps", [[0], [0, 1], [5000]])
def test_few_steps_are_drawn(steps):
    figure = drawn(planted(steps, 2, lambda step, i: 50))
    assert figure.axes[0].get_xlim()[1] == steps[-1]
    assert figure.axes[0].get_xlim()[0] < steps[0]


def test_the_axis_is_logarithmic_where_the_steps_are_and_step_0_has_a_cell():
    steps = [0, *(2**i for i in range(14))]
    table = planted(steps, 2, lambda step, i: 50)
    axes = drawn(table).axes[0]
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlim() == (-0.5, 2**13)
    assert Source(table).digest().matrix_steps[:, 1].tolist() == steps  # a column each
    assert fastrank.plot(planted(range(0, 100, 3), 2, lambda step, i: 50)).axes[0].get_xscale() == "linear"


def test_what_was_never_finite_is_grey_and_has_no_mean():
    lost = planted(range(1, 5), 2, lambda step, i: None)
    axes = fastrank.plot(lost, kind="average").axes[0]
    assert [text.get_text() for text in axes.texts] == ["no matrix was ever finite"]
    drawn(lost)
    some = planted(range(1, 5), 2, lambda step, i: None if step > 2 and i else 50)
    np.testing.assert_array_equal(average_values(Source(some).digest())["mean"], [0.5, 0.5, np.nan, np.nan])


def test_three_hundred_matrices_fit_and_some_have_their_names():
    figure = drawn(planted([1, 2], 300, lambda step, i: 50))
    assert figure.get_size_inches()[1] < 13
    heat = figure.axes[0]
    assert heat.get_ylim() == (299.5, -0.5)
    named = [label.get_text() for label in heat.get_yticklabels()]
    assert [named[0], named[-1]] == ["layer.0", "layer.299"]
    assert 20 < len(named) < 100


def test_the_ends_of_long_names_leave_room_for_the_map():
    table = planted([1, 2], 2, lambda step, i: 50).to_pandas()
    table["name"] = "a_prefix_that_all_have." * 4 + table["name"].astype(str)
    figure = fastrank.plot(table, kind="heat_map")
    figure.draw_without_rendering()
    assert figure.axes[0].get_yticklabels()[1].get_text().endswith("all_have.layer.1")
    assert figure.axes[0].get_position().width > 0.4


def test_a_notebook_shows_it_twice_as_sharp(table):
    figure = fastrank.plot(table, kind="average")
    content, size = figure._repr_png_()
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (2 * size["width"], 2 * size["height"])
    assert size["width"] == 800


def test_rows_that_come_while_it_is_read_are_left_out(table):
    class Growing(Source):
        def tables(self, columns, **how):
            for part in super().tables(columns, **how):
                yield part.slice(0, 150) if columns == ["step"] else part

    known = Growing(table).digest()
    assert (known.steps, known.rows) == (50, 150)
    assert known.matrix_steps[-1, 1] == 50


@pytest.mark.parametrize(
    ("history", "how", "error", "message"),
    [
        (
            planted([1], 1, falling),
            {"kind": "pie"},
            ValueError,
            "kind: expected one of 'heat_map'",
        ),
        (planted([1], 1, falling), {"kind": "spectra"}, ValueError, "spectrum="),
        (planted([1], 1, falling), {"names": "layer"}, TypeError, "names: expected a list"),
        (planted([], 1, falling), {}, fastrank.HistoryError, "has no row yet"),
        (planted([1], 1, falling).drop_columns(["rank_lower"]), {}, fastrank.HistoryError, "no column 'rank_lower'"),
        (3, {}, TypeError, "history: expected a pyarrow.Table"),
        ("nowhere.parquet", {}, fastrank.HistoryError, "nowhere.parquet: not there"),
    ],
)
def test_what_cannot_be_drawn_is_said(history, how, error, message):
    with pytest.raises(error, match=message):
        fastrank.plot(history, **how)


def test_thresholds_are_drawn_where_the_tolerances_are_known(table):
    class Tracker:
        tolerances = (fastrank.Tolerance(1e-3), fastrank.Tolerance(0.01, "spectral"))

        def to_arrow(self):
            return table

    with styled():
        assert len(fastrank.plot(Tracker(), kind="spectra").axes[0].lines) == 4
        assert len(fastrank.plot(table, kind="spectra").axes[0].lines) == 2


def test_a_real_tracker_is_drawn_from_memory_and_from_its_folder(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with fastrank.RankTracker(
        model, optimizer, spectrum=("singular_values",), initial=True, directory=tmp_path
    ) as tracker:
        for _ in range(3):
            model(torch.ones(2, 6)).sum().backward()
            optimizer.step()
        from_memory = cells(Source(tracker).digest())
        assert len(fastrank.plot(tracker).axes) == 3 + 2
    assert from_memory["step_last"].tolist() == [0, 1, 2, 3] * 2
    assert cells(Source(tmp_path).digest()).equals(from_memory)


@pytest.mark.parametrize("relative_to", ["frobenius", "spectral", "absolute"])
def test_zero_and_empty_matrices_are_drawn(relative_to):
    """LoRA begins with factors of zeros. The rank of an empty matrix, 0, is full."""
    matrices = {"zero": torch.zeros(3, 3), "empty": torch.zeros(0, 3), "eye": torch.eye(2)}
    model = torch.nn.ParameterDict({name: torch.nn.Parameter(matrix) for name, matrix in matrices.items()})
    tolerance = fastrank.Tolerance(1e-3, relative_to)
    tracker = fastrank.RankTracker(model, tolerance=tolerance, spectrum=["singular_values"])
    for _ in range(3):
        tracker.step()
    drawn(tracker)
    last = average_values(Source(tracker).digest()).iloc[-1]
    assert (last["lowest"], last["highest"]) == (0, 1)
