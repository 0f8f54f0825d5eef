"""What an SM of each architecture holds, and how many blocks of a kernel fit into it.

Capacities are from the CUDA C++ Programming Guide, "Compute Capabilities", table "Technical Specifications per Compute
Capability"; tensor memory is from the PTX ISA, "Tensor Memory". How they are handed out (registers to warps in units of
256, shared memory to blocks in units of 128 bytes beside 1 KiB that the driver reserves) is from `cuda_occupancy.h` of
the CUDA toolkit, with which the tests compare `occupancy`.
"""

from __future__ import annotations

from typing import NamedTuple

KIB = 1024
WARP = 32  # threads
REGISTERS = 64 * KIB  # 32-bit ones, of an SM
REGISTERS_UNIT = 256  # a warp's registers are a multiple of it
PARTITIONS = 4  # of an SM; each has a quarter of the registers, and a warp lives in one
SHARED_UNIT = 128  # a block's shared memory is a multiple of it
SHARED_RESERVED = 1 * KIB  # taken by the driver from an SM's shared memory for every block
BLOCK_WARPS = 32


class Architecture(NamedTuple):
    name: str
    warps: int  # resident on an SM
    blocks: int  # resident on an SM
    shared: int  # bytes an SM has for its blocks
    block_shared: int  # bytes one block can launch with, static and dynamic together
    tensor_memory: int = 0  # columns


ARCHITECTURES = {
    a.name: a
    for a in (
        Architecture("sm_80", warps=64, blocks=32, shared=164 * KIB, block_shared=163 * KIB),
        Architecture("sm_86", warps=48, blocks=16, shared=100 * KIB, block_shared=99 * KIB),
        Architecture("sm_89", warps=48, blocks=24, shared=100 * KIB, block_shared=99 * KIB),
        Architecture("sm_90", warps=64, blocks=32, shared=228 * KIB, block_shared=227 * KIB),
        Architecture("sm_100", warps=64, blocks=32, shared=228 * KIB, block_shared=227 * KIB, tensor_memory=512),
        Architecture("sm_120", warps=48, blocks=24, shared=100 * KIB, block_shared=99 * KIB),
    )
}


class Occupancy(NamedTuple):
    blocks: int  # resident on an SM; 0: cannot be launched
    fraction: float  # of the warps an SM can hold
    limit: str  # what allows no further block


def occupancy(architecture: Architecture, registers: int, warps: int, shared: int, tensor_memory: int = 0) -> Occupancy:
    """Theoretical occupancy of a kernel.

    Args:
        registers: of one thread.
        warps: of one block.
        shared: bytes of one block, static and dynamic.
        tensor_memory: columns of one block.
    """
    blocks = {
        "warps": architecture.warps // warps if warps <= BLOCK_WARPS else 0,
        "blocks": architecture.blocks,
        "registers": _blocks_by_registers(registers, warps),
        "shared memory": architecture.shared // (_round_up(shared, SHARED_UNIT) + SHARED_RESERVED)
        if shared <= architecture.block_shared
        else 0,
    }
    if tensor_memory:
        blocks["tensor memory"] = architecture.tensor_memory // tensor_memory
    limit = min(blocks, key=lambda name: blocks[name])
    return Occupancy(blocks[limit], blocks[limit] * warps / architecture.warps, limit)


def _blocks_by_registers(registers: int, warps: int) -> int:
    warps_of_partition = REGISTERS // PARTITIONS // _round_up(registers * WARP, REGISTERS_UNIT)
    return warps_of_partition * PARTITIONS // warps


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
