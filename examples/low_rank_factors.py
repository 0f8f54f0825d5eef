"""From knowing the rank to using it: trained networks with factors in the place of matrices, and what that costs.

    python examples/low_rank_factors.py --out runs/factors --fashion DIR        # DIR: Fashion-MNIST's Parquet files

SGD with weight decay lowers the rank of a network's matrices. Here a perceptron learns scikit-learn's digits and a
small convolutional network learns Fashion-MNIST, each with weight decay and without. Then `fastrank.factorize` replaces
their matrices by factors, for several tolerances of the rank and several errors, `fastrank.load_factorized` puts these
into a new network, and its accuracy is compared with that of the one that was trained. No factors are trained on.

It takes some minutes on two cores. Where there is no folder of Fashion-MNIST, that network is left out. The folder gets
`factors.csv` (a row for each network and tolerance or error) and `factors.md`, the same as a table for readers.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import fastrank

TOLERANCES = (1e-3, 1e-2, 5e-2)
ERRORS = (1e-2, 5e-2, 0.1, 0.2, 0.4)
MOMENTUM = 0.9


class Part(NamedTuple):
    """Images `(N, channels, height, width)` with a mean of 0 and a deviation of 1, and their classes `(N,)`."""

    images: Tensor
    classes: Tensor


class Task(NamedTuple):
    """What is trained on what."""

    name: str
    make: Callable[[], nn.Module]
    train: Part
    test: Part
    batch: int
    epochs: int
    lr: float
    weight_decays: tuple[float, ...]


def make_perceptron() -> nn.Module:
    layers = [part for _ in range(3) for part in (nn.Linear(256, 256), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), *layers, nn.Linear(256, 10))


def make_convnet() -> nn.Module:
    """Of three convolutions, each of which halves the image, and two linear layers."""
    convolutions: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
        convolutions += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 10))


def digits() -> tuple[Part, Part]:
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    order = np.random.Generator(np.random.Philox(0)).permutation(len(pixels))
    images = torch.from_numpy(pixels[order].astype(np.float32)).view(-1, 1, 8, 8)
    return halves(images, torch.from_numpy(classes[order]), 1400)


def fashion_mnist(folder: Path) -> tuple[Part, Part]:
    import pyarrow.parquet as pq
    from PIL import Image

    tables = [pq.read_table(next(folder.glob(f"{part}-*.parquet"))) for part in ("train", "test")]
    encoded = [cell["bytes"] for table in tables for cell in table["image"].to_pylist()]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in encoded]).astype(np.float32)
    classes = np.concatenate([table["label"].to_numpy() for table in tables])
    return halves(torch.from_numpy(pixels)[:, None], torch.from_numpy(classes), len(tables[0]))


def halves(images: Tensor, classes: Tensor, train: int) -> tuple[Part, Part]:
    """The first `train` images and the others, normalised by the former."""
    images = (images - images[:train].mean()) / images[:train].std()
    return Part(images[:train], classes[:train]), Part(images[train:], classes[train:])


def train(task: Task, weight_decay: float, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    model = task.make()
    optimizer = fastrank.SGD(model.parameters(), lr=task.lr, momentum=MOMENTUM, weight_decay=weight_decay)
    batches = len(task.train.images) // task.batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(epochs * batches, 1))
    for _ in range(epochs):
        for batch in torch.randperm(len(task.train.images)).split(task.batch)[:batches]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(task.train.images[batch]), task.train.classes[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, part: Part) -> float:
    right = [
        (model(images).argmax(1) == classes).sum()
        for images, classes in zip(part.images.split(2000), part.classes.split(2000), strict=True)
    ]
    return int(sum(right)) / len(part.classes)


def compare(task: Task, weight_decay: float, model: nn.Module) -> Iterator[dict[str, object]]:
    """A row for each tolerance and error: what the factors save, and what they cost."""
    before = accuracy(model, task.test)
    asked = [("tolerance", value, {"tolerance": fastrank.Tolerance(value)}) for value in TOLERANCES]
    asked += [("error", value, {"error": value}) for value in ERRORS]
    for kind, value, options in asked:
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "factors.safetensors"
            table = fastrank.factorize(model, path, **options)
            loaded = fastrank.load_factorized(path, task.make()).eval()
        factored = table[table["kept"] == ""]
        yield {
            "network": task.name,
            "weight_decay": weight_decay,
            "asked": kind,
            "value": value,
            "factored": len(factored),
            "matrices": len(table),
            "largest_error": factored["relative_error"].max() if len(factored) else 0.0,
            "parameters": table.attrs["parameters"],
            "stored": table.attrs["stored"],
            "accuracy_before": before,
            "accuracy_after": accuracy(loaded, task.test),
        }


def page(rows: pd.DataFrame, epochs: dict[str, int]) -> str:
    """The rows as a page in Markdown."""
    lengths = ", ".join(f"{count} epochs of the {name}" for name, count in epochs.items())
    heads = (
        "network",
        "weight decay",
        "asked",
        "as factors",
        "largest proven error",
        "parameters",
        "accuracy",
        "after",
    )
    lines = [
        "# Accuracy with factors in the place of matrices",
        "",
        "Made by `make factors` ([`examples/low_rank_factors.py`](../../../examples/low_rank_factors.py)); one seed,",
        f"{lengths}. Numbers in [`factors.csv`](factors.csv).",
        "",
        "Asked is a tolerance of the numerical rank, which factors keep, or the most that an error may be. Errors are",
        "proven upper bounds of ||W - U V||_F / ||W||_F; the largest of a network's matrices is shown. Parameters are",
        "those that are left, of all. Factors are put into the network as they are, and not trained on. One seed, and",
        "learning rates, decays and lengths that were chosen by how far the rank falls, after a look at such a table:",
        "it shows what factors cost where the rank has fallen, and is no test of how accurate such networks are.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
    ]
    for row in rows.itertuples():
        cells = (
            row.network,
            f"{row.weight_decay:g}",
            f"{row.asked} {row.value:g}",
            f"{row.factored} of {row.matrices}",
            rounded_up(row.largest_error) if row.factored else "-",
            f"{row.stored / row.parameters:.1%}",
            f"{row.accuracy_before:.2%}",
            f"{row.accuracy_after:.2%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rounded_up(bound: float) -> str:
    """A bound in four decimals, rounded upwards, as less would not be proven."""
    return f"{np.ceil(bound * 1e4) / 1e4:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of what comes out")
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's Parquet files")
    parser.add_argument("--epochs", type=int, help="of both networks (default: enough for a result)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = [Task("digits perceptron", make_perceptron, *digits(), 32, 100, 0.05, (0.0, 5e-3))]
    if arguments.fashion is not None and arguments.fashion.is_dir():
        parts = fashion_mnist(arguments.fashion)
        tasks.append(Task("Fashion-MNIST convnet", make_convnet, *parts, 64, 4, 0.05, (0.0, 5e-3)))
    else:
        print("Fashion-MNIST is left out: --fashion names no folder of it")
    rows = []
    for task in tasks:
        for weight_decay in task.weight_decays:
            model = train(task, weight_decay, task.epochs if arguments.epochs is None else arguments.epochs)
            for row in compare(task, weight_decay, model):
                print(", ".join(f"{key} {x if isinstance(x, str) else f'{x:.4g}'}" for key, x in row.items()))
                rows.append(row)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "factors.csv", index=False)
    epochs = {task.name: task.epochs if arguments.epochs is None else arguments.epochs for task in tasks}
    (arguments.out / "factors.md").write_text(page(table, epochs), encoding="utf-8")


if __name__ == "__main__":
    main()
