"""All figures of a sweep, drawn and written: which there are, and what is said where one has nothing to show."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from fastrank.experiments import figure_accuracy, figure_batch_size, figure_layers, figure_spectrum, figure_steps
from fastrank.experiments.drawing import Drawing, NothingToDraw, remove, save
from fastrank.experiments.results import Results
from fastrank.experiments.style import styled

import fastrank


@dataclass(frozen=True)
class Picture:
    """A figure as the report shows it; `svg` is None where there is nothing to draw, and `caption` says why."""

    title: str
    caption: str
    svg: bytes | None


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
                pictures.append(Picture(title, f"Nothing to draw: {reason}.", None))
            else:
                pictures.append(Picture(title, drawing.caption, save(name, drawing, folder)))
    return pictures


def _plans(results: Results, trial: str | None) -> Iterator[tuple[str, str, Callable[[], Drawing]]]:
    """File name (no ending) and title of every figure, and how to draw it, in the order of the report."""
    for suffix in results.suffixes:
        at, said = (f"@{suffix}", f" (tolerance {suffix})") if suffix else ("", "")
        yield (
            f"rank_by_batch_size{at}",
            f"Average rank against batch size{said}",
            partial(figure_batch_size.draw, results, suffix),
        )
        yield (
            f"rank_over_steps{at}",
            f"Average rank over training{said}",
            partial(figure_steps.draw, results, suffix),
        )
    yield "rank_against_accuracy", "Rank against test accuracy", partial(figure_accuracy.draw, results)
    for name, title, draw in (
        ("rank_by_layer", "Rank of every matrix over training", figure_layers.draw),
        ("spectrum", "Singular values, first against last step", figure_spectrum.draw),
    ):
        yield name, title, partial(_draw_trial, draw, results, trial)


def _draw_trial(draw: Callable[..., Drawing], results: Results, trial: str | None) -> Drawing:
    if trial is None:
        raise NothingToDraw("no done trial has a readable history")
    try:
        history = results.history(trial)
    except (fastrank.HistoryError, OSError) as error:
        raise NothingToDraw(f"the history of trial {trial} could not be read ({error})") from error
    return draw(results, trial, history)
