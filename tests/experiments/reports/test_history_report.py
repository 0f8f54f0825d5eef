"""The report of a tracker's folder: its numbers are the history's, and it is the same at every rebuild."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from planted_history import planted

import fastrank
from fastrank.experiments.reports import write_any_report, write_history_report
from fastrank.experiments.reports.results import ReportError
from fastrank.plotting.figures import STYLE


@pytest.fixture(scope="module", autouse=True)
def _coarse_pictures() -> Iterator[None]:
    """Fewer dots: what is tested here is not how the pictures look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STYLE, "savefig.dpi", 40)
        yield


def write(folder: Path, *, spectra: bool = True) -> Path:
    """Two parts. Matrix 0 dips at step 4; matrix 1 is not finite at step 1, and never again."""

    def rank(step: int, matrix: int) -> int | None:
        return {(4, 0): 20, (1, 1): None}.get((step, matrix), 90 - step)

    folder.mkdir(exist_ok=True)
    table = planted(range(1, 9), 2, rank, spectra=(1, 8) if spectra else ())
    for i in range(2):
        fastrank.write_history(table.slice(8 * i, 8), folder / f"part-{i:05d}.parquet")
    return folder


def test_the_page_has_pictures_and_every_matrix(tmp_path: Path) -> None:
    folder = write(tmp_path / "<run>")
    page = write_any_report(folder).read_text(encoding="utf-8")
    assert "<h1>&lt;run&gt;</h1>" in page
    assert "2 matrices, recorded at 8 steps from step 1 to step 8" in page
    assert page.count("<img") == 3
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "Status of the rows: NONFINITE 1, OK 15." in page
    assert "$" not in page.split("</style>")[1].split("<img")[0]
    table = pd.read_csv(folder / "matrices.csv").set_index("name")
    assert table.loc["layer.0.weight", ["first", "lowest", "lowest_step", "last"]].tolist() == [89, 20, 4, 82]
    lost = table.loc["layer.1.weight"]
    assert pd.isna(lost["first"])
    assert lost[["lowest", "lowest_step", "last", "status_NONFINITE", "status_OK"]].tolist() == [82, 8, 82, 1, 7]
    assert sorted(path.stem for path in (folder / "figures").glob("*.csv")) == [
        "average_rank",
        "rank_by_matrix",
        "spectrum",
    ]
    average = pd.read_csv(folder / "figures" / "average_rank.csv")
    assert average["mean"].iloc[-1] == 0.82
    assert pd.isna(average["mean"].iloc[0])


def test_a_rebuild_is_the_same_and_a_picture_without_data_goes(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    first = write_history_report(folder).read_bytes()
    assert write_history_report(folder).read_bytes() == first
    write(folder, spectra=False)
    page = write_history_report(folder).read_text(encoding="utf-8")
    assert "Nothing to draw: no singular values were recorded." in page
    assert not list((folder / "figures").glob("spectrum.*"))


def test_a_single_file_has_its_report_in_a_folder_beside_it(tmp_path: Path) -> None:
    fastrank.write_history(planted(range(1, 9), 2, lambda step, _: 90 - step), tmp_path / "ranks.parquet")
    path = write_any_report(tmp_path / "ranks.parquet")
    assert path == tmp_path / "ranks" / "report.html"
    assert "<h1>ranks.parquet</h1>" in path.read_text(encoding="utf-8")
    assert len(pd.read_csv(tmp_path / "ranks" / "matrices.csv")) == 2


def test_a_folder_that_is_neither_is_told_of_both(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"neither a sweep's folder .*trials\.sqlite.* nor a tracker's .*part-00000"):
        write_any_report(tmp_path)
    with pytest.raises(ReportError, match=r"--trial ab: .* only a sweep has trials"):
        write_any_report(write(tmp_path / "run"), "ab")
    (tmp_path / "run" / "part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(fastrank.HistoryError, match=r"part-00001\.parquet"):
        write_any_report(tmp_path / "run")
