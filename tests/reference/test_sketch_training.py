"""Sketches of networks in training: at no step is a single bound false, and once ranks have fallen they decide."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from fastrank import Tolerance, testing
from fastrank.reference.noise import normal
from fastrank.reference.sketch import next_basis, prove, sketch, start

TOLERANCES = (Tolerance(), Tolerance(0.1), Tolerance(0.15, "spectral"), Tolerance(0.1, "absolute"))
FASHION = Path(__file__).parents[3] / "shared" / "data" / "fashion_mnist" / "test-00000-of-00001.parquet"


def network(*sizes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [layer for m, n in pairwise(sizes) for layer in (nn.Linear(m, n), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    return torch.from_numpy(x).float() / 8 - 1, torch.from_numpy(y).long()


def fashion(images=600):
    parquet, image = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("PIL.Image")
    if not FASHION.exists():
        pytest.skip("no Fashion-MNIST on this machine")
    rows = parquet.read_table(FASHION).slice(0, images).to_pylist()
    pictures = [list(image.open(io.BytesIO(row["image"]["bytes"])).tobytes()) for row in rows]
    return torch.tensor(pictures).float() / 128 - 1, torch.tensor([row["label"] for row in rows])


def judged(model, x, y, steps, ks, **options):
    """Trains, and sketches every matrix with every k; per k and step, counts of false bounds and of decided ranks.

    Truth is singular values of FP64; bounds of sigma_1 count as well. Decided are ranks of matrices larger than k, two
    of which with four tolerances are 8 at most.
    """
    optimizer = torch.optim.SGD(model.parameters(), **options)
    weights = [p for p in model.parameters() if p.ndim == 2]
    bases = {(i, k): start(normal(0, w.shape[1], k, i, -1)[None]) for i, w in enumerate(weights) for k in ks}
    tallies = {k: [] for k in ks}
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        batch = torch.randint(len(x), (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        for k in ks:
            tallies[k].append([0, 0])
        for i, weight in enumerate(weights):
            matrix = weight.detach()
            truth = [testing.true_rank(matrix, t) for t in TOLERANCES]
            top = testing.true_singular_values(matrix)[0].square()
            view = matrix.mT if step % 2 else matrix
            for k in ks:
                found = sketch(view[None], bases[i, k])
                proof = prove(found, bases[i, k], TOLERANCES)
                bases[i, k] = next_basis(found, proof.top, normal(0, view.shape[0], k, i, step)[None])
                bounds = zip(proof.rank_lower[0], proof.rank_upper[0], truth, strict=True)
                wrong = sum(bool(low > t.upper) or bool(high < t.lower) for low, high, t in bounds)
                wrong += bool(proof.top_low > top * (1 + 1e-13)) + bool(proof.top_high < top * (1 - 1e-13))
                tallies[k][-1][0] += wrong
                if min(matrix.shape) > k:
                    tallies[k][-1][1] += int((proof.rank_lower == proof.rank_upper).sum())
    return tallies


def test_digits():
    """Strong decay, so that the rank falls while it is watched: layers of 64 x 64, 48 x 64 and 10 x 48."""
    tallies = judged(network(64, 64, 48, 10), *digits(), 150, (16, 32), lr=0.2, momentum=0.8, weight_decay=0.1)
    for tally in tallies.values():
        wrong, decided = zip(*tally, strict=True)
        assert sum(wrong) == 0
        assert not any(decided[:10])
        assert min(decided[-50:]) >= 4


def test_fashion():
    """A layer of 80 x 784, whose tail takes as long to vanish as the test lasts."""
    tallies = judged(network(784, 80, 10), *fashion(), 90, (16,), lr=0.2, weight_decay=0.4)
    wrong, decided = zip(*tallies[16], strict=True)
    assert sum(wrong) == 0
    assert not any(decided[:10])
    assert max(decided[-10:]) >= 3
