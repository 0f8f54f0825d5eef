"""Rooflines of cards: how long ranks and steps take at least, by FP64 products and by INT8 slices. Nothing is measured.

    python bench/cards.py           print the tables
    python bench/cards.py --write   write them to bench/results/cards.md

A launch takes the longest of its bytes at the memory's bandwidth and its operations at the rate of each unit, which are
taken to work side by side; launches come one after another. What it costs to launch, L2's own bandwidth, latencies
(but for those from pivot to pivot) and whatever keeps a kernel from a peak are left out: times will be longer.

Multiprocessors, boost clocks, bandwidths, caches and peaks are NVIDIA's: Ada GPU Architecture (RTX 4090), RTX Blackwell
GPU Architecture (RTX 5090), and the data sheets of L40S, A10, H100, H200 and HGX B200. Of B300 the data sheet of GB300
NVL72 has 24 POP/s of INT8 for 72 GPUs, with sparsity; multiprocessors, clock and cache are assumed: they give its
peaks. H100 has its INT8 peak at 1.83 GHz and its FP64 peak at 1.98.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tables import listed
from workloads import WORKLOADS

from fastrank.backend import COARSE, FINE
from fastrank.kernels.count import cut, finish, gram, grams, integer_gram
from fastrank.kernels.device import RATES
from fastrank.kernels.inertia.ldl import ldl_cost
from fastrank.kernels.inertia.table import Shape
from fastrank.kernels.step.sgd_sketch import sgd_sketch_cost

PAGE = Path(__file__).parent / "results" / "cards.md"


class Card(NamedTuple):
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    ghz: float
    gb: float
    """Memory's bandwidth, GB/s."""
    cache: float
    """L2, MB."""
    fp64: float
    """TFLOP/s of its data sheet, tensor cores included."""
    int8: float
    """TOP/s of its data sheet, dense."""

    def rates(self) -> list[float]:
        """Operations a second: FP64, INT8, and 32-bit integers."""
        a_clock = (*RATES[self.capability], INT32.get(self.capability, 64))
        return [n * self.multiprocessors * self.ghz * 1e9 for n in a_clock]


CARDS = (
    Card("RTX 4090", (8, 9), 128, 2.52, 1008, 72, 1.29, 660.6),
    Card("RTX 5090", (12, 0), 170, 2.407, 1792, 96, 1.64, 838),
    Card("L40S", (8, 9), 142, 2.52, 864, 96, 1.43, 733),
    Card("A10", (8, 6), 72, 1.695, 600, 6, 0.49, 250),
    Card("B200", (10, 0), 148, 1.965, 8000, 126, 37, 4500),
    Card("B300", (10, 3), 148, 2.03, 8000, 126, 1.25, 167),
    Card("H100 SXM", (9, 0), 132, 1.83, 3350, 50, 67, 1979),
    Card("H200", (9, 0), 132, 1.83, 4800, 50, 67, 1979),
)
INT32 = {(12, 0): 128}
"""32-bit integers, shifts or comparisons a clock and multiprocessor; elsewhere 64, which for 10.x is assumed."""
CUT = 49
"""32-bit integer instructions an element of `cut_kernel`, of 69 in all: both its loops as Triton 3.9 compiles them for
sm_89, FP32, rows of neighbours. The other 20 are multiplications and accesses, which other units take."""
FINISH = 8
"""FP64 operations an element of the triangle: 4 instructions, for conversion, product with two powers, square."""
SHIFTS = 4
"""Where a tracker counts for a tolerance and for sigma_1. `rank_bounds` needs two of them."""
PIVOT, INSTRUCTIONS = 156, 266 / 8
"""From pivot to pivot of `ldl_kernel`: cycles by latencies alone; FP64 instructions of a warp on that way (sm_89)."""
PARAMETERS, SIDE = 10**8, 4096
"""Of the step: FP32, in square matrices of this side, about."""
SLICED = 12
"""Products of INT8 slices an element and column of V."""
STEPS = {16: (4, 2, 66), 32: (6, 2, 90), 64: (6, 1, 76), 128: (10, 1, 110)}
"""Of the step by integers, by k: FP64 instructions an element, how often each product is made, and 32-bit integer
instructions an element, as Triton 3.6 compiles them for sm_89."""
GOALS = {"grams": 0.15, "step": 1.1}
"""On an RTX 4090: most milliseconds for the Grams of ResNet-18, and times its bytes for a step with k = 16."""


class Work(NamedTuple):
    """What a launch has to do."""

    bytes: float = 0
    fp64: float = 0
    int8: float = 0
    int32: float = 0

    def ms(self, card: Card) -> float:
        units = zip((self.fp64, self.int8, self.int32), card.rates(), strict=True)
        return 1e3 * max(self.bytes / (card.gb * 1e9), *(n / rate for n, rate in units))


def shapes_of(workload: str) -> list[Shape]:
    return [Shape.of(torch.empty(shape, device="meta")) for shape in WORKLOADS[workload].shapes]


def _tiled(shapes: Sequence[Shape], block: int) -> float:
    """Operations of one product with whole tiles on the diagonal: (1 + block / r) r^2 n where tiles fit."""
    return sum((across := -(-s.order // block)) * (across + 1) * block**2 * s.columns for s in shapes)


def _moved(card: Card, sizes: Sequence[float], cached: bool) -> list[float]:
    """What share of each goes through memory: 0.0 where it stays in L2, which has room for the first ones first."""
    room, shares = card.cache * 1e6 * cached, []
    for size in sizes:
        shares.append(float(size > room))
        room -= size * (1 - shares[-1])
    return shares


def gram_launches(card: Card, shapes: Sequence[Shape], products: int, cached: bool) -> dict[str, Work]:
    """The launches that make FP32 matrices' Grams.

    products: of INT8 slices in place of one in FP64; 0: in FP64.
    cached: what fits into L2 stays there between launches: slices, sums of products, and W, which was there before.
    """
    at, orders = card.capability, [shape.order for shape in shapes]
    chunks = [-(-shape.columns // grams.chunk_of(shape, products > 0, at)) for shape in shapes]
    w = sum(4 * shape.rows * shape.columns for shape in shapes)
    sums = sum(4 * r * r * n for r, n in zip(orders, chunks, strict=True))
    finishing, squaring = finish.finish_cost(orders, chunks)
    slices = cut.cut_cost(shapes, torch.float32)[0] - w if products else 0
    through, of_sums, of_w = _moved(card, (slices, sums, w), cached)
    if not products:
        product = Work(w * of_w + sums * of_sums, fp64=_tiled(shapes, gram.config(at).block))
        return {"product": product, "finish": Work(finishing * of_sums, fp64=squaring)}
    int8 = products * _tiled(shapes, integer_gram.config(at).block)
    finished = Work(finishing * of_sums, fp64=FINISH * sum(r * r for r in orders) / 2)
    made = Work(w * of_w + slices * through, int32=CUT * w / 4)
    return {"cut": made, "product": Work(slices * through + sums * of_sums, int8=int8), "finish": finished}


def grams_ms(card: Card, shapes: Sequence[Shape], products: int, cached: bool) -> float:
    return sum(work.ms(card) for work in gram_launches(card, shapes, products, cached).values())


def factors_ms(card: Card, shapes: Sequence[Shape]) -> tuple[float, float]:
    """Of `ldl_kernel`, in one launch: what its flops and bytes take, and the chain of pivots of its largest matrix.

    Each of a multiprocessor's four parts has a quarter of its FP64 units, and a warp has 32 lanes.
    """
    moved, flops = ldl_cost([shape.rows for shape in shapes], SHIFTS)
    units = min(RATES[card.capability].fp64 / 2, 64) / 4
    chain = max(shape.rows for shape in shapes) * max(PIVOT, INSTRUCTIONS * 32 / units)
    return Work(moved, fp64=flops).ms(card), chain / (card.ghz * 1e6)


def step(k: int, integers: bool) -> Work:
    """SGD with momentum and the sketch of every matrix, in one pass."""
    matrices = [(SIDE, SIDE)] * (PARAMETERS // SIDE**2) + [(SIDE, PARAMETERS % SIDE**2 // SIDE)]
    moved, _ = sgd_sketch_cost(matrices, k, 4, True)
    if not integers:
        return Work(moved, fp64=(2 * k + 2) * PARAMETERS)
    fp64, times, int32 = STEPS[k]
    return Work(moved, 2 * fp64 * PARAMETERS, 2 * SLICED * k * times * PARAMETERS, int32 * PARAMETERS)


TEXT = """# Rooflines of cards

Written by `make cards` ([`bench/cards.py`](../cards.py) says what is counted). These are rooflines, computed from data
sheets and from counts of operations: nothing here is measured, and real times are longer.

{cards}

## ResNet-18, milliseconds

Grams of its {matrices} matrices, {millions:.1f} million FP32 elements: in FP64; from {fine} products of INT8
slices, with all bytes through memory; and with what fits into L2 kept there between launches. Then LDL^T for
{shifts} shifts a matrix, in FP64 on either path: by its flops, and by the chain of its {longest} pivots. A count
is the Grams, with L2, and the longer of these two.

{counts}

## SGD with sketches, 10^8 FP32 parameters, milliseconds a step

By FP64 products / by INT8 slices, for k columns of a sketch. The bytes are those of the step without one.

{steps}

## What follows

- {name}, Grams of ResNet-18, goal {goal} ms, by the roofline with L2: {grams_met} by the {fine} products that a
  tolerance of 1e-3 takes ({inside:.3f}), {coarse_met} by the {few} for 5e-3 and more ({coarse:.3f}). Through memory,
  {memory_met} ({outside:.3f}).
- {name}, step with k = 16, goal {times} times its bytes: {step_met} by the roofline ({share:.3f}).
- LDL^T matters: {factors:.2f} ms on an {name}, {more:.1f} times the Grams by integers. It is the largest part of a
  count there, for integers have taken only the Grams out of FP64. A tracker factors only what sketches leave open.
- B300 reads so fast, and has so little FP64 and INT8, that these bound its step, and its bytes do not.
- B200 gains by integers in Grams, and loses in steps with k up to 64: its FP64 keeps up with the bytes, its 32-bit
  integers do not. So its sketches stay in FP64 (`sketches_by_integers` in `fastrank/backend.py`).
"""


def _card(card: Card) -> Sequence[str]:
    numbers = [f"{x:g}" for x in (card.multiprocessors, card.ghz, card.gb, card.cache)]
    return (card.name, "{}.{}".format(*card.capability), *numbers, *(f"{x / 1e12:.4g}" for x in card.rates()))


def _count(card: Card, shapes: Sequence[Shape]) -> Sequence[str]:
    parts = [work.ms(card) for work in gram_launches(card, shapes, FINE, True).values()]
    flops, chain = factors_ms(card, shapes)
    counts = [max(flops, chain) + made for made in (grams_ms(card, shapes, 0, True), sum(parts))]
    made = (grams_ms(card, shapes, 0, False), grams_ms(card, shapes, FINE, False), sum(parts))
    numbers = [f"{x:.3f}" for x in (*made, flops, chain, *counts)]
    return (card.name, *numbers[:3], " + ".join(f"{x:.3f}" for x in parts), *numbers[3:])


def _step(card: Card) -> Sequence[str]:
    pairs = (f"{step(k, False).ms(card):.2f} / {step(k, True).ms(card):.2f}" for k in STEPS)
    return (card.name, f"{Work(20 * PARAMETERS).ms(card):.2f}", *pairs)


def text() -> str:
    shapes, first = shapes_of("resnet18-cifar"), CARDS[0]
    inside, outside = (grams_ms(first, shapes, FINE, cached) for cached in (True, False))
    coarse = grams_ms(first, shapes, COARSE, True)
    share, factors = step(16, True).ms(first) / Work(20 * PARAMETERS).ms(first), max(factors_ms(first, shapes))
    head = "card|capability|SMs|GHz|GB/s|L2, MB|FP64, TFLOP/s|INT8, TOP/s|INT32, TOP/s"
    counts = "card|Grams, FP64|INT8|INT8, L2|cut + product + finish|LDL^T|its chain|count, FP64|count, INT8"

    def met(value: float, goal: float) -> str:
        return "met" if value <= goal else "not met"

    values: dict[str, object] = {
        "cards": listed(head.split("|"), [_card(card) for card in CARDS]),
        "counts": listed(counts.split("|"), [_count(card, shapes) for card in CARDS]),
        "steps": listed(("card", "bytes", *(f"k = {k}" for k in STEPS)), [_step(card) for card in CARDS]),
        "matrices": len(shapes), "millions": sum(s.rows * s.columns for s in shapes) / 1e6, "shifts": SHIFTS,
        "longest": max(s.rows for s in shapes), "name": first.name, "goal": GOALS["grams"], "times": GOALS["step"],
        "inside": inside, "outside": outside, "share": share, "factors": factors, "more": factors / inside,
        "fine": FINE, "few": COARSE, "coarse": coarse, "coarse_met": met(coarse, GOALS["grams"]),
        "grams_met": met(inside, GOALS["grams"]), "memory_met": met(outside, GOALS["grams"]),
        "step_met": met(share, GOALS["step"]),
    }  # fmt: skip
    return TEXT.format(**values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write them to {PAGE.name}")
    if parser.parse_args().write:
        PAGE.write_text(text())
    else:
        print(text(), end="")


if __name__ == "__main__":
    main()
