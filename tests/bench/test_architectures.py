"""Occupancy: worked by hand, and against NVIDIA's own calculator."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from architectures import ARCHITECTURES, KIB, Occupancy, occupancy

MOST = 255  # registers a thread can have


@pytest.mark.parametrize(
    ("name", "registers", "warps", "shared", "expected"),
    [
        # 32 * 32 = 1024 registers a warp, 16 warps a quarter: all 64, in 16 blocks of 4.
        ("sm_80", 32, 4, 0, Occupancy(16, 1.0, "warps")),
        ("sm_86", 32, 4, 0, Occupancy(12, 1.0, "warps")),
        ("sm_89", 32, 4, 0, Occupancy(12, 1.0, "warps")),
        ("sm_120", 32, 4, 0, Occupancy(12, 1.0, "warps")),
        # 185 * 32 = 5920, allocated as 6144: 2 warps a quarter of 16384, 8 an SM, which is one block.
        ("sm_90", 185, 8, 0, Occupancy(1, 8 / 64, "registers")),
        # 168 * 32 = 5376 registers leave 3 warps a quarter; one register more is allocated as 5632, which leaves 2.
        ("sm_100", 168, 4, 0, Occupancy(3, 12 / 64, "registers")),
        ("sm_100", 169, 4, 0, Occupancy(2, 8 / 64, "registers")),
        ("sm_86", 168, 4, 0, Occupancy(3, 12 / 48, "registers")),
        # Blocks of one warp run into the number of blocks: 32 of 64 warps, 16 or 24 of 48.
        ("sm_90", 32, 1, 0, Occupancy(32, 0.5, "blocks")),
        ("sm_86", 32, 1, 0, Occupancy(16, 16 / 48, "blocks")),
        ("sm_89", 32, 1, 0, Occupancy(24, 0.5, "blocks")),
        ("sm_120", 32, 1, 0, Occupancy(24, 0.5, "blocks")),
        # 48 KiB + 1 KiB: 3 in 164, 4 in 228, 2 in 100.
        ("sm_80", 32, 4, 48 * KIB, Occupancy(3, 12 / 64, "shared memory")),
        ("sm_90", 32, 4, 48 * KIB, Occupancy(4, 16 / 64, "shared memory")),
        ("sm_89", 32, 4, 48 * KIB, Occupancy(2, 8 / 48, "shared memory")),
        ("sm_120", 32, 4, 48 * KIB, Occupancy(2, 8 / 48, "shared memory")),
        # 113 KiB + 1 KiB is half of 228; with one byte more, another 128 are allocated.
        ("sm_100", 32, 4, 113 * KIB, Occupancy(2, 8 / 64, "shared memory")),
        ("sm_100", 32, 4, 113 * KIB + 1, Occupancy(1, 4 / 64, "shared memory")),
        # The largest block, and one byte more.
        ("sm_86", 32, 4, 99 * KIB, Occupancy(1, 4 / 48, "shared memory")),
        ("sm_86", 32, 4, 99 * KIB + 1, Occupancy(0, 0.0, "shared memory")),
        ("sm_120", 32, 4, 99 * KIB, Occupancy(1, 4 / 48, "shared memory")),
        ("sm_120", 32, 4, 99 * KIB + 1, Occupancy(0, 0.0, "shared memory")),
        # 255 registers leave 2 warps a quarter; 200 do so too, though 9 warps of 6400 are less than 65536.
        ("sm_90", MOST, 16, 0, Occupancy(0, 0.0, "registers")),
        ("sm_90", 200, 9, 0, Occupancy(0, 0.0, "registers")),
        ("sm_90", 32, 33, 0, Occupancy(0, 0.0, "warps")),
    ],
)
def test_worked_by_hand(name, registers, warps, shared, expected):
    assert occupancy(ARCHITECTURES[name], registers, warps, shared) == expected


def test_tensor_memory_is_shared_by_the_blocks_of_an_sm():
    sm_100 = ARCHITECTURES["sm_100"]
    assert occupancy(sm_100, 32, 4, 0, tensor_memory=128) == Occupancy(4, 16 / 64, "tensor memory")
    assert occupancy(sm_100, 32, 4, 0, tensor_memory=512).blocks == 1
    assert occupancy(sm_100, 32, 4, 0, tensor_memory=1024).blocks == 0
    assert occupancy(ARCHITECTURES["sm_90"], 32, 4, 0, tensor_memory=32).blocks == 0  # there is none


CALCULATOR = """
#include <cstdio>
#include <cuda_occupancy.h>

int main() {
    int major, minor, threads_sm, registers, warps;
    size_t shared_sm, shared_block, shared;
    while (scanf("%d %d %d %zu %zu %d %d %zu", &major, &minor, &threads_sm, &shared_sm, &shared_block, &registers,
                 &warps, &shared) == 8) {
        cudaOccDeviceProp device;
        device.computeMajor = major;
        device.computeMinor = minor;
        device.maxThreadsPerBlock = 1024;
        device.maxThreadsPerMultiprocessor = threads_sm;
        device.regsPerBlock = device.regsPerMultiprocessor = 65536;
        device.warpSize = 32;
        device.sharedMemPerBlock = 48 * 1024;
        device.sharedMemPerMultiprocessor = shared_sm;
        device.numSms = 1;
        device.sharedMemPerBlockOptin = shared_block;
        device.reservedSharedMemPerBlock = 1024;
        cudaOccFuncAttributes kernel;
        kernel.maxThreadsPerBlock = 1024;
        kernel.numRegs = registers;
        kernel.sharedSizeBytes = 0;
        kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
        kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
        kernel.maxDynamicSharedSizeBytes = shared_block;
        kernel.numBlockBarriers = 1;
        cudaOccDeviceState state;
        cudaOccResult result;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, 32 * warps, shared)) return 1;
        printf("%d\\n", result.activeBlocksPerMultiprocessor);
    }
}
"""


@pytest.fixture(scope="module")
def calculator(tmp_path_factory):
    """NVIDIA's calculator, from the header in Triton's wheel, as a program."""
    triton = importlib.util.find_spec("triton")
    if triton is None or shutil.which("c++") is None:
        pytest.skip("needs Triton's headers and a C++ compiler")
    include = Path(triton.origin).parent / "backends" / "nvidia" / "include"
    program = tmp_path_factory.mktemp("calculator") / "calculator"
    command = ["c++", "-w", "-x", "c++", f"-I{include}", "-o", str(program), "-"]
    subprocess.run(command, input=CALCULATOR, text=True, check=True)
    return program


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nvidias_own_calculator_agrees(name, calculator):
    architecture = ARCHITECTURES[name]
    kernels = list(
        itertools.product(
            range(16, 256, 3),
            (1, 2, 3, 4, 7, 8, 12, 16, 24, 32),
            (0, 1, 4000, 32 * KIB, 49 * KIB + 1, 99 * KIB, 100 * KIB, 113 * KIB, 163 * KIB, 164 * KIB, 227 * KIB),
        )
    )
    device = f"{name[3:-1]} {name[-1]} {architecture.warps * 32} {architecture.shared} {architecture.block_shared}"
    lines = "\n".join(f"{device} {registers} {warps} {shared}" for registers, warps, shared in kernels)
    done = subprocess.run([calculator], input=lines, capture_output=True, text=True, check=True)
    theirs = [int(word) for word in done.stdout.split()]
    assert len(theirs) == len(kernels)
    assert set(theirs) >= {0, 1, 2}  # the comparison is about something
    for kernel, blocks in zip(kernels, theirs, strict=True):
        assert occupancy(architecture, *kernel).blocks == blocks, kernel
