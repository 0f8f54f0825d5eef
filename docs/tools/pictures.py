"""The pictures of the site, made by the library itself: `python docs/tools/pictures.py` writes them into docs/pictures.

history.png     what `fastrank.plot` draws of a training on digits
spectrum.png    singular values of one of its matrices, at the first and the last step, with tau
sketch.png      the interval that a sketch alone proves of that matrix, step by step, and the rank
bracket.png     eigenvalues around tau^2, and the width of the bracket
timeline.png    what ranks add to a training step, from the rows of bench/results; kernels, where a device was profiled
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import timeline
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fastrank
import fastrank.testing
from fastrank.counting.bounds import inertia_bounds, shifts
from fastrank.counting.growth import residual
from fastrank.plotting.figures import INK, MUTED, STYLE
from fastrank.reference import sketch
from fastrank.reference.grams import gram
from fastrank.reference.ldl import inertia
from fastrank.reference.noise import normal

PICTURES = Path(__file__).parents[1] / "pictures"
RED, BLUE, GREY = "#d1495b", "#30638e", "#d5dae3"
TOLERANCE = fastrank.Tolerance()
STEPS, DECAY_AT, K = 6000, 4000, 64
MATRIX = "2.weight"


def train() -> tuple[fastrank.RankTracker, list[Tensor]]:
    """A perceptron on digits, and the matrix that the other pictures look at, as it was after each step."""
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    sizes = [64, 100, 100, 100]
    hidden = [layer for m, n in pairwise(sizes) for layer in (nn.Linear(m, n), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(100, 10))
    optimizer = fastrank.SGD(model.parameters(), lr=0.2, weight_decay=0.02)
    tracker = fastrank.RankTracker(model, optimizer, initial=True)
    seen = [dict(model.named_parameters())[MATRIX].detach().clone()]
    for step in range(STEPS):
        if step == DECAY_AT:
            optimizer.param_groups[0]["lr"] *= 0.2
        rows = torch.randint(len(x), (16,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        seen.append(dict(model.named_parameters())[MATRIX].detach().clone())
    with torch.no_grad():
        print(f"accuracy {(model(x).argmax(1) == y).float().mean():.1%}, {tracker.latest()[MATRIX]}")
    return tracker, seen


def spectrum(seen: list[Tensor]) -> Figure:
    """Singular values over the Frobenius norm, first and last."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for step, colour in ((0, MUTED), (len(seen) - 1, RED)):
        sigma = fastrank.linalg.svdvals(seen[step], accurate=True) / seen[step].double().norm()
        rank = int(fastrank.linalg.rank_bounds(seen[step]).lower)
        axes.plot(range(1, len(sigma) + 1), sigma, ".", color=colour, ms=4)
        axes.annotate(f"step {step}: rank {rank}", (0.99, 0.93 if step == 0 else 0.83), xycoords="axes fraction",
                      color=colour, ha="right", weight="bold")  # fmt: skip
    axes.axhline(TOLERANCE.value, color=INK, lw=1)
    axes.annotate("tau = 1e-3 ||W||_F", (62, TOLERANCE.value), (0, -4), textcoords="offset points", va="top", color=INK)
    axes.set(yscale="log", xlabel="index i", ylabel="sigma_i / ||W||_F", ylim=(1e-8, 2))
    return figure


def sketched(seen: list[Tensor]) -> Figure:
    """The interval of the sketch, whose basis is carried from step to step and changes sides, and the rank."""
    n = seen[0].shape[1]
    basis = sketch.start(normal(0, n, K, 0, 0)[None])
    lower, upper = [], []
    for step, matrix in enumerate(seen):
        stack = (matrix if step % 2 == 0 else matrix.mT)[None]
        made = sketch.sketch(stack, basis)
        proof = sketch.prove(made, basis, [TOLERANCE])
        lower.append(int(proof.rank_lower[0, 0]))
        upper.append(int(proof.rank_upper[0, 0]))
        basis = sketch.next_basis(made, proof.top, normal(0, stack.shape[1], K, 0, step + 1)[None])
    ranks = fastrank.linalg.rank_bounds(torch.stack(seen))
    assert bool(ranks.certified.all())
    assert all(a <= r <= b for a, r, b in zip(lower, ranks.lower.tolist(), upper, strict=True))
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(range(len(seen)), lower, upper, color=GREY, lw=0, label="what the sketch proves")
    axes.plot(ranks.lower, color=RED, lw=1.5, label="rank, certified")
    axes.axhline(K, color=INK, lw=0.8, ls="--")
    axes.annotate(f"columns of the basis: {K}", (len(seen), K), (-4, 3), textcoords="offset points", ha="right")
    decided = sum(a == b for a, b in zip(lower, upper, strict=True))
    axes.annotate(f"decided by the sketch alone:\n{decided} of {len(seen)} steps", (len(seen), 44), (-4, 0),
                  textcoords="offset points", ha="right", va="center", color=MUTED)  # fmt: skip
    axes.set(xlabel="step", ylabel="rank", xlim=(0, len(seen)), ylim=(0, n + 2))
    axes.legend(frameon=False, loc="upper right")
    return figure


def bracket() -> Figure:
    """How far each eigenvalue is from tau^2, against delta, of a spectrum that comes as near as FP64 can tell."""
    tau, r = 1.0, 60
    distance = torch.logspace(-3, -15, r // 2, dtype=torch.float64)
    sigma = torch.cat([tau * (1 + distance), tau * (1 - distance.flip(0))]).sort(descending=True).values
    matrix = fastrank.testing.planted(sigma, r, r, seed=0, dtype=torch.float64)
    tolerance = fastrank.Tolerance(tau, "absolute")
    g = gram(matrix[None])
    made = shifts(g.moments, tolerance, residual(r))
    high, low = (float(s.at(g.trace)[0]) for s in (made.lower, made.upper))
    square = (tau / float(g.scale[0])) ** 2
    delta = max(high - square, square - low) / square
    from_tau = fastrank.testing.true_singular_values(matrix) ** 2 - 1
    (bounds,) = inertia_bounds(g, [tolerance], inertia)
    lower, upper = int(bounds.lower[0]), int(bounds.upper[0])
    print(f"delta {delta:.1e}, bracket [{lower}, {upper}]")
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(1e-17, delta, color=GREY, lw=0)
    for above, colour in ((True, RED), (False, BLUE)):
        chosen = (from_tau > 0) == above
        index = torch.arange(1, r + 1)[chosen]
        axes.plot(index, from_tau[chosen].abs(), ".", color=colour, ms=5)
    axes.annotate("above tau^2", (0.02, 0.9), xycoords="axes fraction", color=RED, weight="bold")
    axes.annotate("below tau^2", (0.98, 0.9), xycoords="axes fraction", color=BLUE, weight="bold", ha="right")
    said = f"within delta = {delta:.0e} tau^2\na count may be wrong:\nbracket [{lower}, {upper}]"
    axes.annotate(said, (r / 2 + 0.5, delta / 5), ha="center", va="top", color=INK)
    axes.set(yscale="log", ylim=(1e-17, 1), xlabel="index i", ylabel="|sigma_i^2 - tau^2| / tau^2")
    return figure


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    tracker, seen = train()
    with mpl.rc_context({**STYLE, "svg.hashsalt": "fastrank"}):
        drawn = {
            "spectrum": spectrum(seen),
            "sketch": sketched(seen),
            "bracket": bracket(),
            "timeline": timeline.draw(),
        }
    for name, figure in drawn.items():
        figure.savefig(PICTURES / f"{name}.png", dpi=130)
    tracker.plot(kind="heat_map").savefig(PICTURES / "history.png", dpi=110)


if __name__ == "__main__":
    main()
