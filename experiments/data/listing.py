"""What ``fastrank data`` prints: the set that was just prepared, or all sets that there are and where they lie."""

from pathlib import Path

from ..terminal import align_columns
from . import digits
from .catalogue import CATALOGUE
from .folder import cache_folder, file_of, prepared
from .info import DataError, DataInfo
from .prepare import Prepared
from .store import read_info

_HEAD = ("name", "images", "shape", "classes", "digest", "file")


def list_prepared(folder: Path | None = None) -> list[str]:
    """Lines for the terminal: a table of the data sets in the cache folder and those built in, and what can be added.

    A file that cannot be used has its reason in the table. Contents are not checked here: trials do that.
    """
    rows, problems = [_HEAD, _row(digits.INFO, "built in")], []
    for name in prepared(folder):
        try:
            path = file_of(name, folder)
            rows.append(_row(read_info(path, name), str(path)))
        except (DataError, FileNotFoundError) as error:
            problems.append(str(error))
    absent = [name for name in CATALOGUE if name not in prepared(folder)]
    hint = [f"fastrank data prepare NAME adds {', '.join(absent)}, a folder or a data set of the hub"] if absent else []
    return [*align_columns(rows), *problems, "", f"folder: {cache_folder(folder)}", *hint]


def outcome(done: Prepared) -> list[str]:
    """Lines on a set that was just prepared."""
    info, path = done.info, done.path
    parts = (
        f"{info.train:,} training and {info.test:,} test images"
        if info.test
        else f"{info.train:,} images, no test part"
    )
    lines = [
        f"{info.name}: {parts}, {_shape(info)}, {len(info.classes)} classes, digest {info.digest[:12]}",
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, "
        + (f"made in {done.seconds:.1f} s" if done.fresh else "was there already; --force makes it anew"),
    ]
    if path.parent != cache_folder():
        lines.append(f"trials find it with the variable FASTRANK_DATA={path.parent}")
    return lines


def _row(info: DataInfo, place: str) -> tuple[str, ...]:
    images = f"{info.train} + {info.test}" if info.test else str(info.train)
    return info.name, images, _shape(info), str(len(info.classes)), info.digest[:12], place


def _shape(info: DataInfo) -> str:
    return f"{info.channels} x {info.height} x {info.width}"
