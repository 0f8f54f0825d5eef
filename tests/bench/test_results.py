"""Files of results: rows by key, whole at any time."""

import results


def row(provider, **values):
    return {"operation": "rank", "workload": "w", "provider": provider, "dtype": "float32"} | values


def test_a_rerun_replaces_its_rows_and_leaves_the_others(tmp_path):
    path = tmp_path / "device.csv"
    results.save(path, [row("a", wall_ms=1.0, note="kept, as it is"), row("b", wall_ms=2.0, error=0.5)])
    results.save(path, [row("b", wall_ms=3.0)])
    first, second = results.load(path)
    assert (first["provider"], first["wall_ms"], first["note"]) == ("a", "1", "kept, as it is")
    assert (second["provider"], second["wall_ms"], second["error"]) == ("b", "3", "")
    assert list(tmp_path.iterdir()) == [path]


def test_a_row_is_compared_by_its_device_time():
    assert results.time_ms({"device_ms": "2.5", "wall_ms": "9"}) == 2.5
    assert results.time_ms({"device_ms": "", "wall_ms": "9"}) == 9
    assert results.time_ms({"device_ms": "", "wall_ms": ""}) is None


def test_no_file_is_no_rows(tmp_path):
    assert results.load(tmp_path / "none.csv") == []


def test_all_rows_of_an_operation_are_replaced_together(tmp_path):
    path = tmp_path / "device.csv"
    results.save(path, [row("a"), row("b"), row("a", operation="step")])
    results.save(path, [row("c")], all_of="rank")
    assert [(r["operation"], r["provider"]) for r in results.load(path)] == [("rank", "c"), ("step", "a")]


def test_what_a_refused_row_may_not_have():
    assert {"wall_ms", "device_p80_ms", "ratio", "roof_share", "peak_mib"} <= set(results.TIMES)
    assert not {"error", "limit", "note", "device", *results.KEY} & set(results.TIMES)
