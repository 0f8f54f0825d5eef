"""What the plan for a sharded model moves at a step, and what it needs, on paper: nothing is sent.

    python bench/sharding.py [--only 7B]

Each row is a plan that `fastrank.sharing.make_plan` makes for weights of the shapes of Llama 7B or 70B, as a number of
ranks would declare them. All figures are computed from the plan, not measured, but for the last column, which is how
long it took this machine to make the plan.

    FSDP    `fully_shard`: rows are divided as `torch.chunk` divides them
    TP      tensor parallel: rows of q, k, v, gate, up, the embedding and the head; columns of o and down
    whole   matrices that travel as they are;  gram: as packed Grams;  local: not at all
    rounds  exchanges that follow each other, each with at most 256 MiB, or one matrix, received by a rank
    sent, received, memory      of the rank that sends, receives or needs most; moved: by all ranks together

A second table is of steps at which the ranks of all matrices have fallen so low that sketches with k columns decide
them, mean of the two sides that a sketch is of by turns. A matrix of which a sketch costs more travels as before.

    sketched    so many matrices;  sent: by the rank that sends most;  times less: than without sketches, by all ranks
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastrank.sharing import Holding, Plan, Sketch, Span, bytes_sent, make_plan, sketch_pays

ROWS, COLUMNS = 0, 1
HEADER = (
    *("matrices", "dtype", "ranks", "layout", "local", "whole", "gram", "rounds"),
    *("sent GB", "received GB", "moved GB", "memory GB", "planned in s"),
)

SKETCHED_HEADER = ("matrices", "dtype", "ranks", "layout", "k", "sketched", "sent GB", "moved GB", "times less")


class Weight(NamedTuple):
    """A matrix, and which of its sides tensor parallelism divides."""

    name: str
    shape: tuple[int, int]
    side: int


class Layout(NamedTuple):
    """Ranks are numbered so that those of one tensor-parallel group follow each other."""

    name: str
    fsdp: int
    tp: int

    @property
    def ranks(self) -> int:
        return self.fsdp * self.tp


def llama(layers: int, width: int, keys: int, inner: int, vocabulary: int) -> list[Weight]:
    """The matrices of a Llama; `keys` is the number of rows of k and v."""
    weights = [Weight("embed", (vocabulary, width), ROWS)]
    for layer in range(layers):
        weights += [
            Weight(f"layers.{layer}.q", (width, width), ROWS),
            Weight(f"layers.{layer}.k", (keys, width), ROWS),
            Weight(f"layers.{layer}.v", (keys, width), ROWS),
            Weight(f"layers.{layer}.o", (width, width), COLUMNS),
            Weight(f"layers.{layer}.gate", (inner, width), ROWS),
            Weight(f"layers.{layer}.up", (inner, width), ROWS),
            Weight(f"layers.{layer}.down", (width, inner), COLUMNS),
        ]
    return [*weights, Weight("head", (vocabulary, width), ROWS)]


MODELS = {"7B": llama(32, 4096, 4096, 11008, 32000), "70B": llama(80, 8192, 1024, 28672, 128256)}
LAYOUTS = {
    "7B": [Layout("FSDP 8", 8, 1), Layout("FSDP 64", 64, 1), Layout("TP 8", 1, 8), Layout("FSDP 8 x TP 8", 8, 8)],
    "70B": [Layout("FSDP 128 x TP 8", 128, 8)],
}


def chunk(start: int, end: int, count: int, index: int) -> tuple[int, int]:
    """Where the chunk `index` of `count` is that `torch.chunk` makes of a range; it may be empty."""
    each = -(-(end - start) // count)
    return min(start + index * each, end), min(start + (index + 1) * each, end)


def piece(weight: Weight, layout: Layout, rank: int) -> tuple[Span, ...]:
    """What a rank has of a weight: tensor parallelism comes first, then FSDP divides the rows of its shard."""
    sides = [(0, weight.shape[0]), (0, weight.shape[1])]
    sides[weight.side] = chunk(*sides[weight.side], layout.tp, rank % layout.tp)
    sides[ROWS] = chunk(*sides[ROWS], layout.fsdp, rank // layout.tp)
    span = Span(*sides[ROWS], *sides[COLUMNS])
    return (span,) if span.numel else ()


def declared(weights: Sequence[Weight], layout: Layout, dtype: str) -> list[list[Holding]]:
    """What each rank declares."""
    return [
        [Holding(weight.name, weight.shape, dtype, piece(weight, layout, rank)) for weight in weights]
        for rank in range(layout.ranks)
    ]


def row(name: str, weights: Sequence[Weight], layout: Layout, dtype: str) -> tuple[str, ...]:
    """The cells of a row of the table."""
    holdings = declared(weights, layout, dtype)
    start = time.perf_counter()
    plan = make_plan(holdings)
    seconds = time.perf_counter() - start
    ways = Counter(matrix.way for matrix in plan.matrices)
    return (
        *(name, dtype, str(layout.ranks), layout.name),
        *(str(ways[way]) for way in ("local", "whole", "gram")),
        str(len(plan.rounds)),
        *(f"{nbytes / 1e9:.2f}" for nbytes in figures(plan, layout.ranks)),
        f"{seconds:.2f}",
    )


def figures(plan: Plan, ranks: int) -> tuple[int, int, int, int]:
    """Bytes: the most that a rank sends, the most that one receives, what all move, the most memory."""
    sent, received, memory = (max(map(of, range(ranks))) for of in (plan.sent, plan.received, plan.memory))
    return sent, received, plan.total, memory


def sketched_row(name: str, plan: Plan, layout: Layout, dtype: str, k: int) -> tuple[str, ...]:
    """The cells of a row of the second table."""
    sketched = [
        i
        for i, matrix in enumerate(plan.matrices)
        if matrix.way != "local" and 2 * k <= matrix.order and sketch_pays(matrix, k)
    ]
    sent = sum(bytes_sent(plan, [Sketch(i, k, side) for i in sketched], layout.ranks) for side in (0, 1)) / 2
    cells = f"{sent.max() / 1e9:.2f}", f"{sent.sum() / 1e9:.2f}", f"{plan.total / sent.sum():.1f}"
    return name, dtype, str(layout.ranks), layout.name, str(k), str(len(sketched)), *cells


def sketched_rows() -> Iterator[tuple[str, ...]]:
    """Those of Llama 7B."""
    for layout in LAYOUTS["7B"]:
        for dtype in ("float32", "bfloat16"):
            plan = make_plan(declared(MODELS["7B"], layout, dtype))
            for k in (16, 64):
                yield sketched_row("Llama 7B", plan, layout, dtype, k)


def table(header: Sequence[str], rows: Iterator[tuple[str, ...]]) -> None:
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)


def rows(models: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Those of whole models, then those of a single matrix on 8 ranks."""
    for model in models:
        for layout in LAYOUTS[model]:
            for dtype in ("float32", "bfloat16"):
                yield row(f"Llama {model}", MODELS[model], layout, dtype)
    for side in (ROWS, COLUMNS):
        for dtype in ("float32", "bfloat16"):
            single = [Weight("down", (8192, 28672), side)]
            yield row("8192 x 28672", single, Layout(f"Shard({side})", 1, 8), dtype)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MODELS, help="one of the models (default: all)")
    arguments = parser.parse_args()
    print("Computed, not measured, but for the time that it took to make the plan.\n")
    table(HEADER, rows([arguments.only] if arguments.only else list(MODELS)))
    if arguments.only != "70B":
        print()
        table(SKETCHED_HEADER, sketched_rows())
    return 0


if __name__ == "__main__":
    sys.exit(main())
