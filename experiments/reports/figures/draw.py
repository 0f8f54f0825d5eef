"""All figures of a sweep, drawn and written: which there are, and what is said where one has nothing to show."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from fastrank.plotting.figures import styled

from ..axes import WORDS
from ..results import Results
from . import accuracy, heat_maps, lines, maps, spectrum, steps, training
from .drawing import Drawing, NothingToDraw, remove, save


@dataclass(frozen=True)
class Picture:
    """A figure as the report shows it, PNG or SVG; None where there is nothing to draw, and `caption` says why."""

    name: str
    title: str
    caption: str
    image: bytes | None


def draw_figures(results: Results, trial: str | None) -> list[Picture]:
    """Draw every figure into `results.folder / "figures"`, each as PNG, SVG and the CSV it was drawn from.

    The files of a figure that has nothing to show any more are removed.

    Args:
        results: the sweep.
        trial: id of the trial that the heat map and the spectra show; None where no trial is done.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = results.folder / "figures"
    pictures = []
    with styled():
        for name, title, draw in _plans(results, trial):
            try:
                drawing = draw()
            except NothingToDraw as reason:
                remove(name, folder)
                pictures.append(Picture(name, title, f"Nothing to draw: {reason}.", None))
            else:
                pictures.append(Picture(name, title, drawing.caption, save(name, drawing, folder)))
    return pictures


def _plans(results: Results, trial: str | None) -> Iterator[tuple[str, str, Callable[[], Drawing]]]:
    """File name (no ending) and title of every figure, and how to draw it, in the order of the report."""
    for x, y in maps.pairs(results):
        title = f"Average rank and test accuracy over {WORDS[x]} and {WORDS[y]}"
        yield f"rank_map_{x}_{y}", title, partial(maps.draw, results, x, y)
    first = results.shown[0]
    for suffix in results.suffixes:
        at, said = (f"@{suffix}", f" (tolerance {suffix})") if suffix else ("", "")
        yield (
            f"rank_by_{first}{at}",
            f"Average rank against {WORDS[first]}{said}",
            partial(lines.draw, results, suffix),
        )
        yield (f"rank_over_steps{at}", f"Average rank over training{said}", partial(steps.draw, results, suffix))
    yield "rank_against_accuracy", "Rank against test accuracy", partial(accuracy.draw, results)
    yield "rank_and_accuracy", "Rank and accuracy over training", partial(training.draw, results)
    for name, title, draw in (
        ("rank_by_matrix", "Rank of every matrix over training", heat_maps.draw),
        ("spectrum", "Singular values, first against last step", spectrum.draw),
    ):
        yield name, title, partial(_draw_trial, draw, results, trial)
    yield (
        "rank_by_matrix_corners",
        "Rank of every matrix at the corners of the grid",
        partial(heat_maps.draw_corners, results),
    )


def _draw_trial(draw: Callable[[Results, str], Drawing], results: Results, trial: str | None) -> Drawing:
    if trial is None:
        raise NothingToDraw("no done trial has a readable history")
    if trial not in results.digests:
        raise NothingToDraw(f"the history of trial {trial} could not be read")
    return draw(results, trial)
