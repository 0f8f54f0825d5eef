"""The history of a stack, taken apart: every trial gets a folder of Parquet parts, as if it had trained alone.

While a stack trains, its tracker writes one history of all its matrices, in which ``layers.0.weight[3]`` is the first
layer of the fourth trial. A second tracker writes the steps with a spectrum, which a CUDA graph cannot hold. At the
end every trial gets its rows of both.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import fastrank

from ..records import Layout, history_parts

BUFFERED = 2_000_000  # rows of all trials that are held in memory before a part of each trial is written


def split_history(
    ranks: Path,
    spectra: Path | None,
    spectral_steps: Sequence[int],
    every: int,
    last_steps: dict[str, int],
    layout: Layout,
) -> None:
    """Write ``history/<trial>`` for every trial of a stack; what was there under these names is replaced.

    Args:
        ranks: folder of the stack's history.
        spectra: folder of the history of the steps with a spectrum; None where there are none.
        spectral_steps: the training steps of those rows, in order; the second tracker itself counts 1, 2, 3, ...
        every: of the steps without a spectrum, the first and each multiple of this are kept, since a CUDA graph
            records all.
        last_steps: for every trial, in the order of the stack, the last step that counts. Later rows are left out.
        layout: where the trials' histories go.

    Raises OSError, or HistoryError where a part is damaged.
    """
    trials = list(last_steps)
    for trial in trials:
        layout.forget_history(trial)
    extra = None if spectra is None else _renumbered(fastrank.read_history(spectra), spectral_steps)
    last_of_all = pa.scalar(max(last_steps.values()))
    held: list[list[pa.Table]] = [[] for _ in trials]
    written = rows = 0
    files = history_parts(ranks)
    for file in files:
        table = fastrank.read_history(file)
        steps = table["step"].to_numpy()
        last = pa.scalar(steps[-1])
        table = table.filter(pa.array((steps == 1) | (steps % every == 0)))
        if extra is not None:
            table, extra = _merged(table, extra, last if file is not files[-1] else last_of_all)
        for index, piece in _by_trial(table):
            held[index].append(piece.filter(pc.field("step") <= last_steps[trials[index]]))
        rows += table.num_rows
        if rows >= BUFFERED or file is files[-1]:
            for trial, pieces in zip(trials, held, strict=True):
                _write(pieces, layout.history(trial), written)
                pieces.clear()
            written, rows = written + 1, 0


def _renumbered(table: pa.Table, steps: Sequence[int]) -> pa.Table:
    own = table["step"].to_numpy()  # 1, 2, 3, ...: each call of the tracker counts as a step
    return table.set_column(table.column_names.index("step"), "step", pa.array(np.asarray(steps)[own - 1]))


def _merged(ranks: pa.Table, spectra: pa.Table, last: pa.Scalar) -> tuple[pa.Table, pa.Table]:
    """A part with its rows at steps of ``spectra``, up to ``last``, replaced by those; and the later ``spectra``."""
    due, rest = spectra.filter(pc.field("step") <= last), spectra.filter(pc.field("step") > last)
    others = ranks.filter(pc.invert(pc.is_in(ranks["step"], value_set=due["step"].combine_chunks())))
    table = pa.concat_tables([others, due], promote_options="default").unify_dictionaries().combine_chunks()
    return table.take(pa.array(np.argsort(table["step"].to_numpy(), kind="stable"))), rest


def _by_trial(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """The number of each trial and its rows, in order, with the names that matrices have in a trial alone."""
    names = table["name"].combine_chunks()
    words = [name.rpartition("[") for name in names.dictionary.to_pylist()]
    codes = names.indices.to_numpy()
    owners = np.array([int(index.removesuffix("]")) for _, _, index in words])[codes]
    alone = list(dict.fromkeys(name for name, _, _ in words))
    renamed = np.array([alone.index(name) for name, _, _ in words], dtype=np.int32)[codes]
    column = pa.DictionaryArray.from_arrays(pa.array(renamed), pa.array(alone))
    table = table.set_column(table.column_names.index("name"), "name", column)
    counts = np.bincount(owners)
    table = table.take(pa.array(np.argsort(owners, kind="stable")))
    for index, (end, count) in enumerate(zip(np.cumsum(counts), counts, strict=True)):
        if count:
            yield index, table.slice(end - count, count)


def _write(pieces: list[pa.Table], folder: Path, number: int) -> None:
    pieces = [piece for piece in pieces if piece.num_rows]
    if pieces:
        table = pa.concat_tables(pieces, promote_options="default").unify_dictionaries().combine_chunks()
        folder.mkdir(parents=True, exist_ok=True)
        fastrank.write_history(table, folder / f"part-{number:05d}.parquet")
