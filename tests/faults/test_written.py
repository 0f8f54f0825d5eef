"""Whatever writes a file has a test in which the disk is full just then, or the folder cannot be written: the list of
what writes is complete."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRITES = {
    *("mkdir", "makedirs", "connect", "write_bytes", "write_text", "symlink_to", "touch", "mv", "rename"),
    *("TemporaryDirectory", "NamedTemporaryFile", "mkdtemp", "mkstemp", "copyfile", "copytree", "move"),
    *("save", "savez", "savefig", "save_file", "tofile", "dump", "to_csv", "to_parquet", "to_json", "memmap"),
    *("ParquetWriter", "RecordWriter", "SummaryWriter", "put_file", "get_file"),
    *("replacing", "write_atomically", "write_csv", "write_history"),
}
"""Names of functions that make a file or a folder, and `open` with a mode in which it is written."""

HERE = "faults/test_full_disk.py::test_of_"
COMMANDS = "faults/test_full_disk_of_commands.py::test_of_"
SCRATCH = "a scratch folder, gone at the end of the block"
REPORTS = "experiments/reports/test_report.py::test_a_folder_that_cannot_be_written_is_named_and_the_old_report_stays"
COMPARED = "experiments/reports/test_compare.py::test_bad_calls_are_told_what_to_do"
NO_ERROR = "experiments/sinks/test_sinks.py::test_an_error_is_said_once_and_costs_that_sink_only"
COMPILED = "measuring/test_compilation.py::test_where_no_process_can_be_started_this_one_compiles"
ROWS = "analysis/test_measure.py::test_of_rows_a_full_disk_costs_none_that_was_kept"
DEPTHS = "plotting/figures/test_depth.py::test_of_a_figure_a_full_disk_leaves_the_old_one"
PREPARED = "experiments/data/test_cli.py::test_what_can_be_mended_is_one_line"
STACKED = "experiments/sweeps/test_sweep_stacks.py::test_a_full_disk_splits_no_stack_and_loses_no_checkpoint"

POINTS = {
    "fastrank/analysis/kept.py: mkdir open": ROWS,
    "fastrank/factors/file.py: replacing": f"{HERE}a_file_that_replaces_another",
    "fastrank/files.py: open open open": f"{HERE}a_file_that_replaces_another",
    "fastrank/history/parquet.py: ParquetWriter replacing": f"{HERE}a_history",
    "fastrank/history/parts.py: mkdir write_history": f"{HERE}a_history",
    "fastrank/plotting/figures/depth.py: replacing savefig": DEPTHS,
    "fastrank/plotting/figures/picture.py: savefig": "into memory, of which a notebook makes a picture",
    "fastrank/plotting/figures/spectra.py: rename": "no file: columns of a table",
    "fastrank/sinks/tensorboard.py: RecordWriter mkdir open": f"{COMMANDS}event_files",
    "fastrank/tracking/checkpoint.py: save": "into memory, of which whoever saves the state makes a file",
    "fastrank/tracking/readings.py: write_history": f"{HERE}a_file_that_replaces_another",
    "fastrank/transformers.py: save": "into memory, of which the trainer makes a file",
    "kernels/compile.py: mkdir open": COMPILED,
    "kernels/cuda/build.py: get_file get_file": "no file: asks Triton's cache for one",
    "experiments/against.py: rename": "no file: columns of a table",
    "experiments/analyze.py: write_csv": f"{COMMANDS}the_command_line_is_a_line",
    "experiments/data/prepare.py: TemporaryDirectory mkdir": PREPARED,
    "experiments/data/store.py: save_file": f"{HERE}a_data_set_at_every_size",
    "experiments/engines/execute.py: TemporaryDirectory": SCRATCH,
    "experiments/files.py: mkdir replacing write_atomically": f"{HERE}a_file_that_replaces_another",
    "experiments/records/ledger.py: connect connect": f"{HERE}a_ledger_at_every_size",
    "experiments/records/storage.py: get_file get_file makedirs makedirs mkdir mkdir mv put_file rename": (
        f"{HERE}storage_elsewhere"
    ),
    "experiments/reports/compare.py: write_atomically": COMPARED,
    "experiments/reports/figures/draw.py: save": REPORTS,
    "experiments/reports/figures/drawing.py: save savefig savefig to_csv write_atomically write_atomically "
    "write_atomically": f"{COMMANDS}a_report",
    "experiments/reports/history_report.py: save to_csv write_atomically write_atomically": f"{COMMANDS}a_report",
    "experiments/reports/live_heat_map.py: TemporaryDirectory": SCRATCH,
    "experiments/reports/report.py: to_csv write_atomically write_atomically": REPORTS,
    "experiments/sinks/mlflow.py: TemporaryDirectory write_bytes": NO_ERROR,
    "experiments/sweeps/devices.py: TemporaryDirectory": SCRATCH,
    "experiments/sweeps/summary.py: write_csv": f"{HERE}a_file_that_replaces_another",
    "experiments/sweeps/sweep.py: mkdir open write_atomically": f"{COMMANDS}a_sweep_that_cannot_begin",
    "experiments/training/checkpoint.py: save write_atomically": f"{HERE}a_checkpoint_training_goes_on",
    "experiments/training/stack_history.py: mkdir write_history": STACKED,
}
"""What a file calls that writes, and the test in which that fails; or why it needs none."""


def writes_in(path: Path) -> list[str]:
    """The names of the functions that are called in a file, and write."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            name = called.rpartition(".")[2]
            modes = [x.value for x in node.args if isinstance(x, ast.Constant) and isinstance(x.value, str)]
            if name in WRITES or called == "os.open" or (name == "open" and any(set(m) & set("wxa+") for m in modes)):
                found.append(name)
    return sorted(found)


def test_the_list_of_what_writes_is_complete():
    found = {}
    for folder in ("fastrank", "kernels", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            if not any(parent.is_symlink() for parent in path.parents) and (names := writes_in(path)):
                found[str(path.relative_to(ROOT))] = " ".join(names)
    assert found == dict(point.split(": ") for point in POINTS)


@pytest.mark.parametrize("test", sorted({test for test in POINTS.values() if "::" in test}))
def test_the_tests_that_it_names_are_there(test):
    path, _, name = test.partition("::")
    assert f"def {name}" in (ROOT / "tests" / path).read_text()
