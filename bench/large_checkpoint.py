"""A checkpoint with the shapes of a language model, to time ``fastrank analyze`` on, without anybody's weights.

    python bench/large_checkpoint.py DIR [--billions 1|7|0] [--shards N]

writes DIR/model.safetensors, or N shards and their index: bfloat16 matrices under the names that transformers gives a
Llama. Elements are Gaussian with power laws of singular values, as trained matrices have, except that every fourth
block's output projections have rank 64: there something is to be found. Nothing larger than a shard is in memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor


class Shapes(NamedTuple):
    """Of a Llama: vocabulary, width, width of keys and values, width of the perceptron, blocks."""

    vocabulary: int
    width: int
    keys: int
    hidden: int
    blocks: int


SHAPES = {
    "1": Shapes(128_256, 2048, 512, 8192, 16),  # Llama 3.2 1B, whose head is its embedding
    "7": Shapes(32_000, 4096, 4096, 11_008, 32),  # Llama 2 7B
    "0": Shapes(4_000, 256, 64, 1024, 4),  # the same in small, for a look
}
LOW = 64


def matrices(shapes: Shapes) -> Iterator[tuple[str, int, int, int]]:
    """Name, rows, columns and rank of every matrix."""
    width, hidden = shapes.width, shapes.hidden
    yield "model.embed_tokens.weight", shapes.vocabulary, width, width
    for i in range(shapes.blocks):
        low = LOW if i % 4 == 3 else width
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        yield f"{attention}.q_proj.weight", width, width, width
        yield f"{attention}.k_proj.weight", shapes.keys, width, width
        yield f"{attention}.v_proj.weight", shapes.keys, width, width
        yield f"{attention}.o_proj.weight", width, width, low
        yield f"{mlp}.gate_proj.weight", hidden, width, width
        yield f"{mlp}.up_proj.weight", hidden, width, width
        yield f"{mlp}.down_proj.weight", width, hidden, low


def made(rows: int, cols: int, rank: int, generator: torch.Generator) -> Tensor:
    """A matrix of Gaussian numbers, whose columns are scaled by a power law; or a product of two thin ones."""
    if rank < min(rows, cols):
        left, right = (torch.randn(*shape, generator=generator) for shape in ((rows, rank), (rank, cols)))
        return (left @ right * (0.02 / rank**0.5)).bfloat16()
    scale = torch.arange(1.0, cols + 1)[torch.randperm(cols, generator=generator)] ** -0.3
    return torch.randn(rows, cols, generator=generator, dtype=torch.bfloat16).mul_(scale.bfloat16())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--billions", choices=SHAPES, default="1")
    parser.add_argument("--shards", type=int, default=1)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    generator, wanted = torch.Generator().manual_seed(0), list(matrices(SHAPES[asked.billions]))
    total, shard, index = sum(rows * cols for _, rows, cols, _ in wanted), {}, {}
    written, seen = 0, 0
    for i, (name, rows, cols, rank) in enumerate(wanted):
        shard[name], seen = made(rows, cols, rank, generator), seen + rows * cols
        if seen * asked.shards >= total * (written + 1) or i == len(wanted) - 1:
            written += 1
            file = f"model-{written:05}-of-{asked.shards:05}.safetensors" if asked.shards > 1 else "model.safetensors"
            save_file(shard, asked.folder / file)
            index |= dict.fromkeys(shard, file)
            shard = {}
    if asked.shards > 1:
        (asked.folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    print(f"{asked.folder}: {len(wanted)} matrices, {total / 1e9:.2f} billion parameters")


if __name__ == "__main__":
    main()
