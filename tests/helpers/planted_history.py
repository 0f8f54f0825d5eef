"""Tables of histories with planted ranks: what pictures of a history are checked against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

Rank = Callable[[int, int], int | None]


def planted(
    steps: Sequence[int], matrices: int, rank: Rank, *, full: int = 100, spectra: Sequence[int] = ()
) -> pa.Table:
    """A row for every step and matrix. Matrix `i` is `layer.<i>.weight`, `full` x (`full` + 7), of `rank(step, i)`.

    Args:
        steps: in their order.
        matrices: how many.
        rank: None where a matrix is not finite.
        full: the full rank of every matrix.
        spectra: steps at which singular values are recorded (default: there is no such column).
    """
    rows = [(step, i, rank(step, i)) for step in steps for i in range(matrices)]
    text, ranks = pa.dictionary(pa.int32(), pa.string()), [value for _, _, value in rows]
    columns = {
        "step": pa.array([step for step, _, _ in rows], pa.int64()),
        "name": pa.array([f"layer.{i}.weight" for _, i, _ in rows]).cast(text),
        "rows": pa.array([full] * len(rows), pa.int32()),
        "cols": pa.array([full + 7] * len(rows), pa.int32()),
        "rank_lower": pa.array(ranks, pa.int32()),
        "rank_upper": pa.array(ranks, pa.int32()),
        "stable_rank": pa.array([None if value is None else value / 4 for value in ranks], pa.float64()),
        "frobenius_norm": pa.array([1.0] * len(rows)),
        "status": pa.array(["NONFINITE" if value is None else "OK" for value in ranks]).cast(text),
    }
    if spectra:
        sigma = [[0.1] * (r or 0) + [1e-6] * (full - (r or 0)) if step in spectra else None for step, _, r in rows]
        columns["singular_values"] = pa.array(sigma, pa.list_(pa.float64()))
    return pa.table(columns)
