"""The launch heuristics choose something for every architecture, whether or not it is any good there.

`make kernels` compiles what they choose; a heuristic that forgets an architecture would give it nothing to refuse.
"""

from __future__ import annotations

from pathlib import Path

import aot
import cuda_variants
import pytest
from architectures import ARCHITECTURES

ROOT = Path(__file__).parents[2]
SOURCES = aot.sources([ROOT / "kernels"])
FILES = [file for file in SOURCES if file.suffix == ".py"]
CUDA_FILES = [file for file in SOURCES if file.suffix == ".cu"]
TILES = {"BLOCK", "BLOCK_K", "BLOCK_ROW", "B", "TILE"}
"""Compile-time arguments that a configuration is free in; the others say what is to be computed."""


@pytest.fixture(scope="module")
def triton_variants():
    pytest.importorskip("triton")
    import triton_variants

    return triton_variants


def test_the_table_of_architectures_is_that_of_the_kernels(triton_variants):
    from fastrank.kernels import device

    assert list(device.ARCHITECTURES) == list(ARCHITECTURES)
    for name, (major, minor) in device.ARCHITECTURES.items():
        assert name == f"sm_{major}{minor}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_kernel_has_a_configuration_on_every_architecture(file, triton_variants):
    variants, missing = triton_variants.variants(triton_variants.load(file))
    assert not missing
    covered: dict[tuple[str, ...], set[str]] = {}
    for variant in variants:
        problem = sorted(f"{name}={value}" for name, value in variant.constexprs.items() if name not in TILES)
        key = (triton_variants.jit(variant.kernel).__name__, variant.label, *problem)
        covered.setdefault(key, set()).update(variant.architectures or ARCHITECTURES)
    for key, architectures in covered.items():
        assert architectures == set(ARCHITECTURES), key


@pytest.mark.parametrize("file", CUDA_FILES, ids=lambda file: file.stem)
def test_every_kernel_in_cuda_has_a_launch_on_every_architecture(file):
    covered: dict[tuple[str, ...], list[str]] = {}
    for launch in cuda_variants.launches(file):
        problem = sorted(macro for macro in launch.macros if not macro.startswith("STAGES="))
        covered.setdefault((launch.kernel, *problem), []).extend(launch.architectures or ARCHITECTURES)
    assert covered
    for key, architectures in covered.items():
        assert sorted(architectures) == sorted(ARCHITECTURES), key


def test_there_are_kernels_to_look_at(triton_variants):
    assert sum(len(triton_variants.variants(triton_variants.load(file))[0]) for file in FILES) > 50
