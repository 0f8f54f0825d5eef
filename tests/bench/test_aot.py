"""The ahead-of-time compiler, as a command on real kernels (`sources/`), with every Triton that is at hand.

A process of its own each time, because Triton may have been imported for its interpreter in this one.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from architectures import ARCHITECTURES

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "sources"
SECOND_TRITON = ROOT / "build" / "triton-3.6.0"  # `make kernels` fetches it

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")


class Run(NamedTuple):
    status: int
    printed: str
    rows: list[dict[str, str]]
    cache: Path

    def problems(self) -> dict[tuple[str, str], str]:
        """Problems by kernel and architecture, shortened to what comes before a colon."""
        return {(r["kernel"], r["architecture"]): r["problem"].partition(":")[0] for r in self.rows if r["problem"]}

    def of(self, configuration: str, architecture: str) -> dict[str, str]:
        (row,) = (r for r in self.rows if configuration in r["configuration"] and r["architecture"] == architecture)
        return row


def run(folder: Path, *paths: Path, arch: tuple[str, ...] = tuple(ARCHITECTURES), **environment: str) -> Run:
    """Runs the command, in which every warning is an error, and which may print nothing to stderr."""
    table = folder / "table.csv"
    command = [sys.executable, "-W", "error", ROOT / "bench" / "aot.py", "--kernels", *paths, "--arch", *arch]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    done = subprocess.run(
        [*command, "--csv", table],
        env=clean | {"TRITON_CACHE_DIR": str(folder / "cache")} | environment,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    rows = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
    return Run(done.returncode, done.stdout, rows, folder / "cache")


@pytest.fixture(scope="module", params=["installed", "3.6.0"])
def triton(request):
    """The environment that chooses a Triton."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton")
    if request.param == "installed":
        return {}
    if not SECOND_TRITON.exists():
        pytest.skip(f"there is no {SECOND_TRITON.relative_to(ROOT)}")
    return {"PYTHONPATH": str(SECOND_TRITON)}


@pytest.fixture(scope="module")
def clean(triton, tmp_path_factory):
    return run(tmp_path_factory.mktemp("clean"), SOURCES / "clean.py", **triton)


@pytest.fixture(scope="module")
def offending(triton, tmp_path_factory):
    paths = (SOURCES / f"{name}.py" for name in ("spilling", "large", "broken"))
    folder = tmp_path_factory.mktemp("offending")
    return run(folder, *paths, arch=("sm_90", "sm_120"), TRITON_INTERPRET="1", **triton)  # compiled nevertheless


def test_a_clean_kernel_is_accepted_on_every_architecture(clean):
    assert clean.status == 0, clean.printed
    assert len(clean.rows) == 2 * len(ARCHITECTURES)
    assert not clean.problems()
    assert f"{len(clean.rows)} of {len(clean.rows)} accepted" in clean.printed
    for row in clean.rows:
        assert 0 < int(row["registers"]) < 255
        assert (row["spill_stores"], row["spill_loads"], row["warps"]) == ("0", "0", "4")
        occupied = int(row["blocks"]) * 4 / ARCHITECTURES[row["architecture"]].warps
        assert float(row["occupancy"]) == round(occupied, 4) > 0
        line = rf"{row['architecture']} +{row['registers']} +{row['stack']} +0\+0 +{row['dynamic_shared']} "
        assert re.search(line, clean.printed), line
    # Three stages of a 64 x 32 and a 32 x 64 tile of FP32.
    assert clean.of("fp32", "sm_90")["dynamic_shared"] == str(3 * 2 * 64 * 32 * 4)
    assert clean.of("fp32", "sm_100")["tensor_memory"] == "64"


@pytest.mark.parametrize(
    ("configuration", "architecture", "sass", "ptx"),
    [
        ("fp64", "sm_80", r"\d+xDMMA\.884", r"mma\.m8n8k4\.f64.*"),
        ("fp64", "sm_90", r"\d+xDMMA\.(8x8x4|16x8x16)", r"mma\.(m8n8k4|m16n8k16)\.f64.*"),
        ("fp64", "sm_86", "", ""),
        ("fp64", "sm_89", "", ""),
        ("fp64", "sm_120", "", ""),
        ("fp32", "sm_80", r"\d+xHMMA\.1688\.F32\.TF32", r"mma\.m16n8k8\.f32\.tf32.*"),
        ("fp32", "sm_86", r"\d+xHMMA\.1688\.F32\.TF32", r"mma\.m16n8k8\.f32\.tf32.*"),
        ("fp32", "sm_89", r"\d+xHMMA\.1688\.F32\.TF32", r"mma\.m16n8k8\.f32\.tf32.*"),
        ("fp32", "sm_90", r"\d+xHGMMA\.64x64x8\.F32\.TF32", r"wgmma\.mma_async\.m64n64k8\.f32\.tf32.*"),
        ("fp32", "sm_100", r"\d+xUTCHMMA", r"tcgen05\.mma\..*tf32"),
        ("fp32", "sm_120", r"\d+xHMMA\.1688\.F32\.TF32", r"mma\.m16n8k8\.f32\.tf32.*"),
    ],
)
def test_tensor_core_instructions_are_named(clean, configuration, architecture, sass, ptx):
    row = clean.of(configuration, architecture)
    assert re.fullmatch(sass, row["sass"]), row
    assert re.fullmatch(ptx, row["ptx"]), row


def test_every_offender_is_named_and_nothing_else(offending):
    assert offending.status == 1
    assert offending.problems() == {
        ("spilling.scan_kernel", "sm_90"): "spills",
        ("spilling.scan_kernel", "sm_120"): "spills",
        ("large.transpose_kernel", "sm_120"): "131072 bytes of shared memory, where a block can have 101376",
        ("broken.forgotten_kernel", ""): "has no variant",
        ("broken.tuned_kernel", ""): "has no variant",
        ("broken.copy_kernel", ""): "there is no architecture sm90",
        ("broken.copy_kernel", "sm_90"): "does not compile",
        ("broken.copy_kernel", "sm_120"): "does not compile",
        ("broken.mismatched_kernel", "sm_90"): "does not compile",
        ("broken.mismatched_kernel", "sm_120"): "does not compile",
    }
    for kernel, architecture in offending.problems():
        assert re.search(rf"^FAILED {kernel}.*{architecture}.*: ", offending.printed, re.MULTILINE)
    assert not offending.of("right", "sm_90")["problem"]
    assert "not launched on sm_120: broken.copy_kernel  right warps=4 stages=3" in offending.printed


def test_the_binaries_confirm_what_was_reported(clean, offending):
    """Registers as cuobjdump reads them; spills as the widths of all loads and stores of local memory in the SASS."""
    from triton import knobs

    def usage(path: Path) -> tuple[str, ...]:
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", path]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return re.search(r"REG:(\d+) STACK:(\d+)", said).groups()

    def width(path: Path, instruction: str) -> int:
        sass = path.with_name("sass.txt").read_text()
        found = re.findall(rf"\b{instruction}(?:\.LU)?(\.64|\.128)?(?:\.LU)? ", sass)
        return sum({"": 4, ".64": 8, ".128": 16}[suffix] for suffix in found)

    for done in (clean, offending):
        reported = [r for r in done.rows if r["registers"]]
        binaries = list(done.cache.rglob("*.cubin"))
        assert sorted(map(usage, binaries)) == sorted((r["registers"], r["stack"]) for r in reported)
        spills = sorted((width(path, "STL"), width(path, "LDL")) for path in binaries)
        assert spills == sorted((int(r["spill_stores"]), int(r["spill_loads"])) for r in reported)
    assert spills[-1] > (1000, 1000)


@needs_triton
def test_what_comes_from_the_cache_or_is_not_disassembled_is_judged_as_it_was(tmp_path):
    path = SOURCES / "spilling.py"
    first = run(tmp_path, path, path, arch=("sm_90",))
    assert first.rows[0] == first.rows[1]
    (binary,) = first.cache.rglob("*.cubin")
    (report,) = first.cache.rglob("ptxas.txt")
    made = binary.stat().st_mtime_ns
    report.unlink()  # as if a launch had compiled it, which keeps no report
    again = run(tmp_path, path, arch=("sm_90",))
    assert again.rows == first.rows[:1]
    assert binary.stat().st_mtime_ns > made
    assert report.exists()

    (tmp_path / "without").mkdir()  # and a cache of its own
    without = run(tmp_path / "without", path, "--no-sass", arch=("sm_90",))
    assert "not looked for" in without.printed
    assert without.rows == [row | {"sass": ""} for row in first.rows[:1]]
    assert without.status == 1


def test_without_kernels_it_says_so(tmp_path):
    (tmp_path / "__init__.py").touch()
    assert run(tmp_path, tmp_path)[:3] == (0, "no kernels\n", [])


@needs_triton
def test_a_module_that_cannot_be_imported_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "faulty.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "helpers.py").write_text("WIDTH = 32\n")
    done = run(tmp_path, tmp_path)
    assert done.status == 1
    assert done.problems() == {("faulty", ""): "cannot be imported"}


@needs_nvcc
@needs_triton  # for its cuobjdump
def test_cuda_kernels_are_compiled_with_the_macros_of_each_launch_they_name_where_it_is_launched(tmp_path):
    done = run(tmp_path, SOURCES / "cuda", arch=("sm_90", "sm_120"))
    assert done.status == 1
    assert done.problems() == {
        ("scale.scale_kernel", "sm_120"): "131328 bytes of shared memory, where a block can have 101376",
        ("scale.forgotten_kernel", ""): "has no launch",
    }
    row = done.of("shared=4096", "sm_90")
    assert (row["static_shared"], row["dynamic_shared"], row["warps"]) == ("256", "4096", "8")
    assert row["compiler"].startswith("nvcc ")

    done = done._replace(rows=[row for row in done.rows if row["kernel"].startswith("macros.")])
    assert [(row["configuration"], row["architecture"]) for row in done.rows] == [
        ("threads=128 shared=0", "sm_90"),
        ("threads=128 shared=0", "sm_120"),
        ("threads=128 shared=131072 WIDTH=32 UNUSED=1", "sm_90"),
    ]
    assert int(done.of("WIDTH=32", "sm_90")["registers"]) > 64 > int(done.of("shared=0", "sm_90")["registers"])
    assert "not launched on sm_120: macros.sum_kernel  threads=128 shared=131072 WIDTH=32 UNUSED=1" in done.printed


FAULTY = {
    'extern "C" __global__ void f_kernel(double *x) { x[0] = y; }': 'identifier "y" is undefined',
    "// launch: g_kernel threads=32 shared=0\n": "names launches of g_kernel",
    "// launch: h_kernel threads=32\n": "is not '// launch: NAME",
    "// launch: i_kernel threads=32 shared=0 width=2\n": "is not '// launch: NAME",
    "// launch: j_kernel threads=32 shared=0 on=sm90\n": "there is no architecture sm90",
}


@needs_nvcc
@needs_triton
def test_cuda_that_does_not_compile_is_named(tmp_path):
    for i, text in enumerate(FAULTY):
        (tmp_path / f"faulty{i}.cu").write_text(text)
    done = run(tmp_path, tmp_path, arch=("sm_90",))
    assert done.status == 1
    assert done.problems() == {(f"faulty{i}.cu", "sm_90"): "does not compile" for i in range(len(FAULTY))}
    for row, message in zip(done.rows, FAULTY.values(), strict=True):
        assert message in row["problem"]


def test_cuda_is_left_out_where_only_triton_is_asked_for(tmp_path):
    assert run(tmp_path, SOURCES / "cuda", "--only-triton")[:3] == (0, "no kernels\n", [])


def test_cuda_without_nvcc_is_named_as_skipped(tmp_path):
    done = run(tmp_path, SOURCES / "cuda", PATH="")
    assert (done.status, done.rows) == (0, [])
    assert done.printed.startswith("skipped: macros.cu (there is no nvcc)\nskipped: scale.cu (there is no nvcc)\n")
