"""Families of `make truth` that are made of their singular values: spectra of `fastrank.testing`, clusters about tau,
those of LAPACK's test matrices (the modes of its generator `latms`, written anew from their description), and spectra
that networks had while they were trained.

    python bench/truth_spectra.py      # trains the network, and writes trained_spectra.npz
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from truth_draw import Array, Draw

from fastrank import Tolerance, testing

DISTANCES = (1e-3, 1e-5, 1e-7, 1e-9, 1e-11, 1e-13, 1e-15)
TRAINED = Path(__file__).with_name("trained_spectra.npz")
STEPS = tuple(round(1.35**i) for i in range(25))
"""Steps of the training after which the spectra of all layers were written down."""


def _spectrum(name: str, d: Draw) -> Tensor:
    return d.planted(d.each(lambda: testing.SPECTRA[name](d.r, d.random)))


def _clustered(distance: float, d: Draw) -> Tensor:
    """Most of the spectrum within a relative distance of tau, on either side; see `testing.clustered`."""
    value, kind = d.tolerance.value, d.tolerance.relative_to
    while d.r * value**2 >= 0.5 or value > 0.5:  # or there is no such spectrum
        value /= 8
    d.tolerance = Tolerance(value, kind)
    sigma = testing.clustered(d.r, d.tolerance, distance)[0].numpy()
    return d.planted(np.tile(sigma, (d.batch, 1)))


def _at_tau(d: Draw) -> Tensor:
    """Singular values over eight decades, of which one is tau but for 1e-16 to 1e-4 of it."""
    value, kind = min(d.tolerance.value, 0.5), d.tolerance.relative_to
    d.tolerance = Tolerance(value, kind)
    sigma, off = d.log_uniform(-8, 0, d.r), d.off_by()
    sigma[:, 0] = 1.0
    if d.r > 1:
        tau = np.full(d.batch, value)
        if kind == "frobenius":  # tau^2 = value^2 (the others + (tau (1 + off))^2)
            others = (sigma[:, :-1] ** 2).sum(1)
            tau = value * np.sqrt(others / (1 - value**2 * (1 + off) ** 2))
        sigma[:, -1] = tau * (1 + off)
    return d.planted(sigma)


def _latms(mode: int, d: Draw) -> Tensor:
    """The spectra of LAPACK's test matrices, of a condition between 1 and 1e16: one that is large, one that is small,
    geometric, arithmetic, log-uniform, and normal numbers."""
    least, i = d.log_uniform(-16, 0, 1), np.arange(d.r) / max(d.r - 1, 1)
    sigma = {
        1: np.where(np.arange(d.r) == 0, 1.0, least),
        2: np.where(np.arange(d.r) < d.r - 1, 1.0, least),
        3: least**i,
        4: 1 - i * (1 - least),
        5: np.exp(d.random.random((d.batch, d.r)) * np.log(least)),
        6: np.abs(d.normal(d.r)),
    }[mode]
    return d.planted(np.broadcast_to(sigma, (d.batch, d.r)))


def _trained(d: Draw) -> Tensor:
    """A layer's spectrum at some step of a training, drawn out or together to the r that is wanted."""
    spectra = _recorded()

    def one() -> Array:
        sigma = spectra[int(d.random.integers(len(spectra)))]
        if d.r <= len(sigma):
            return sigma[: d.r]
        at = np.linspace(0, len(sigma) - 1, d.r)
        return np.exp(np.interp(at, np.arange(len(sigma)), np.log(np.maximum(sigma, 1e-30))))

    return d.planted(d.each(one))


@cache
def _recorded() -> list[Array]:
    with np.load(TRAINED) as file:
        return [row for name in file.files for row in file[name].astype(np.float64)]


FAMILIES: dict[str, Callable[[Draw], Tensor]] = {
    **{name: partial(_spectrum, name) for name in testing.SPECTRA},
    **{f"clustered {distance:g}": partial(_clustered, distance) for distance in DISTANCES},
    "one at tau": _at_tau,
    **{f"latms {mode}": partial(_latms, mode) for mode in range(1, 7)},
    "trained": _trained,
}


def record(path: Path = TRAINED) -> None:
    """Train a network of 64, 64, 48 and 10 units on the digits, with strong decay, and write its spectra."""
    from sklearn.datasets import load_digits
    from torch import nn

    x, y = load_digits(return_X_y=True)
    data, labels = torch.from_numpy(x).float() / 8 - 1, torch.from_numpy(y).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.8, weight_decay=0.02)
    weights = {name: p for name, p in model.named_parameters() if p.ndim == 2}
    spectra: dict[str, list[Array]] = {name: [] for name in weights}
    for step in range(1, max(STEPS) + 1):
        batch = torch.randint(len(data), (16,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in STEPS:
            for name, weight in weights.items():
                spectra[name].append(testing.true_singular_values(weight).numpy())
    np.savez_compressed(path, **{name: np.stack(rows).astype(np.float32) for name, rows in spectra.items()})


if __name__ == "__main__":
    record()
