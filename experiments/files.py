"""Writing small files so that they are never seen half written."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastrank.files import replacing


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, so that a reader finds the old file or the new one, never half of it.

    `fastrank.files.replacing` does the writing. The folder is made if it is missing. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644)  # whatever the umask: results are to be read by others


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write ``rows`` atomically as CSV; None becomes an empty field."""
    write_atomically(path, csv_text(columns, rows).encode())


def csv_text(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """``rows`` as CSV, with a header; None becomes an empty field."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
