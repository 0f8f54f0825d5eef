"""Figures of results: what is drawn, and from which rows."""

import figures
import results
from PIL import Image

WHERE = {"device": "a CPU", "torch": "2.0", "dtype": "float32", "status": "ok", "flops": 1e9, "roof_ms": 0.5}


def rows():
    for provider, factor in (("fastrank.rank_bounds", 1.0), ("rival", 3.0)):
        for size in (128, 256):
            yield {"operation": "rank", "workload": f"square-{size}", "provider": provider, "wall_ms": factor * size}
        for operation in ("spectrum", "norm", "lowrank"):
            yield {"operation": operation, "workload": "w", "provider": provider, "wall_ms": factor, "error": 1e-7}
        values = {"ratio": factor, "ratio_p20": factor, "ratio_p80": factor, "wall_ms": factor}
        yield {"operation": "training", "workload": "w", "provider": provider} | values


def test_each_figure_is_drawn(tmp_path):
    path = tmp_path / "cpu.csv"
    results.save(path, [row | WHERE for row in rows()])
    drawn = figures.draw(path)
    assert [p.name for p in drawn] == ["cpu-speed.png", "cpu-tradeoff.png", "cpu-overhead.png"]
    for picture in drawn:
        with Image.open(picture) as image:
            assert min(image.size) > 200


def test_what_has_no_rows_is_not_drawn(tmp_path):
    path = tmp_path / "cpu.csv"
    results.save(path, [row | WHERE for row in rows() if row["operation"] == "rank"])
    assert [p.name for p in figures.draw(path)] == ["cpu-speed.png"]


def test_the_tradeoff_takes_the_workload_with_most_providers():
    def row(workload, provider, flops):
        return {"operation": "norm", "workload": workload, "provider": provider, "wall_ms": "1", "flops": flops}

    found = [row("few", "a", "9e9"), row("most", "a", "1e3"), row("most", "b", "1e3")]
    assert {r["workload"] for r in figures.widest(found, "norm")} == {"most"}
