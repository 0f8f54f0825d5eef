"""The tables of measured times in docs/performance.md and README.md, and what they are written from."""

import pytest
import results
import tables

WHERE = {"device": "a CPU", "torch": "2.0", "cuda": "", "threads": "2", "commit": "abc", "dirty": "no", "status": "ok"}


def row(operation, provider, **values):
    return WHERE | {"operation": operation, "workload": "w", "provider": provider, "dtype": "float32"} | values


@pytest.mark.parametrize(("file", "text"), [(tables.PAGE, tables.section), (tables.README, tables.summary)])
def test_it_says_what_was_measured(file, text):
    said = file.read_text().partition(tables.START)[2].partition(tables.END)[0].lstrip("\n")
    assert said == text(), "run `python bench/tables.py --write`"
    assert "| --- |" in said


def test_the_readme_has_ratios_of_steps_and_the_time_of_one_count(tmp_path):
    steps = {"fastrank.RankTracker": 1.5, "fastrank.RankTracker every 10": 1.04, "torch.linalg.svdvals hook": 3.0}
    results.save(
        tmp_path / "cpu.csv",
        [
            *(row("training", name, ratio=ratio) for name, ratio in steps.items()),
            row("training", "fastrank.RankTracker", ratio=1.2) | {"workload": "v"},
            row("training", "torch.linalg.svdvals hook", ratio=9.9) | {"workload": "no ours"},
            row("rank", "fastrank.rank_bounds", wall_ms=2.0) | {"workload": "resnet18-cifar"},
        ],
    )
    assert tables.summary(tmp_path).splitlines()[2:] == [
        "| v, times an untracked step | a CPU | 1.20 | not timed | not timed |",
        "| w, times an untracked step | a CPU | 1.50 | 1.04 | 3.00 |",
        "| resnet18-cifar, all matrices once | a CPU | 2 ms |  | not timed |",
    ]


def test_ours_against_the_best_right_rival(tmp_path):
    results.save(
        tmp_path / "cpu.csv",
        [
            row("rank", "fastrank.rank_bounds", wall_ms=2.0),
            row("rank", "torch.linalg.svdvals", wall_ms=9.0),
            row("rank", "best", wall_ms=5.0),
            row("rank", "wrong", status="wrong", error=3.0),
            row("rank", "fastrank.matrix_rank", status="wrong", error=3.0),
        ],
    )
    text = tables.section(tmp_path)
    assert "| w | 2 ms | 9 ms (4.5x) | best: 5 ms (2.5x) | 1 |" in text
    assert "No CUDA device has been measured yet" in text


def test_what_is_wrong_or_missing_is_said(tmp_path):
    ours, rival = row("rank", "fastrank.rank_bounds", wall_ms=2.0), row("rank", "best", wall_ms=1234.5)
    results.save(tmp_path / "cpu.csv", [ours, rival, row("rank", "torch.linalg.svdvals", status="wrong", error=1.0)])
    assert "| w | 2 ms | wrong | best: 1234 ms (6.2e+02x) | 1 |" in tables.section(tmp_path)


def test_a_cuda_file_is_compared_by_device_times(tmp_path):
    ours = row("rank", "fastrank.rank_bounds", cuda="13.0", wall_ms=5.0, device_ms=1.0)
    rival = row("rank", "rival", cuda="13.0", wall_ms=5.5, device_ms=4.0)
    results.save(tmp_path / "gpu.csv", [ours, rival])
    text = tables.section(tmp_path)
    assert "| w | 1 ms | not timed | rival: 4 ms (4x) | 0 |" in text
    assert "No CUDA device" not in text


def test_gpus_come_first_and_what_follows_is_folded(tmp_path):
    for name, cuda in (("a cpu", ""), ("b gpu", "13.0"), ("c cpu", "")):
        times = {"wall_ms": 5.0} | ({"device_ms": 1.0} if cuda else {})
        results.save(tmp_path / f"{name}.csv", [row("rank", "fastrank.rank_bounds", device=name, cuda=cuda, **times)])
    text = tables.section(tmp_path)
    assert text.startswith("### b gpu")
    first, *folded = text.split(f"{tables.FOLDED}<summary>")
    assert "### " in first
    assert [part.split("</summary>")[0] for part in folded if "### " in part] == ["a cpu", "c cpu"]


def test_it_is_written_between_the_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.START}\nold\n{tables.END}\nafter\n")
    tables.write(readme, "new\n")
    assert readme.read_text() == f"before\n{tables.START}\nnew\n{tables.END}\nafter\n"
    readme.write_text("no marks")
    with pytest.raises(SystemExit, match="has no"):
        tables.write(readme, "new\n")
