"""The picture of an analysis shows what was measured, at the block where it stands, and is complete or not there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import full_disk
from matplotlib.image import imread

from fastrank import AnalyzeError, analyze
from fastrank.analysis import table as analysis_table
from fastrank.plotting.figures import depth_figure, save_depths, styled


def state(blocks: int = 3) -> dict[str, torch.Tensor]:
    """Perceptrons of which the last is of rank 1, an embedding and a head, out of order as safetensors has them."""
    generator = torch.Generator().manual_seed(0)
    full = {f"layers.{i}.mlp.up_proj.weight": torch.randn(8, 8, generator=generator) for i in range(blocks)}
    full[f"layers.{blocks - 1}.mlp.up_proj.weight"] = torch.ones(8, 8)
    ends = {"lm_head.weight": torch.randn(9, 8, generator=generator), "embed_tokens.weight": torch.eye(8)}
    return {**ends, **dict(reversed(full.items()))}


def drawn(model: object, monkeypatch: pytest.MonkeyPatch, path: Path) -> tuple[object, ...]:
    """What the figure of an analysis is made of."""
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr(analysis_table, "draw_depths", lambda *what: given.append(what))
    analyze(model, figure=path)  # type: ignore[arg-type]
    return given[0]


def test_every_type_is_a_line_over_the_blocks_and_a_panel_of_spectra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, *given = drawn(state(), monkeypatch, tmp_path / "x.png")
    with styled():
        rank, stable, *panels = depth_figure(*given).axes  # type: ignore[arg-type]
    lines = {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in rank.lines}
    assert {kind: (list(x), list(y)) for kind, (x, y) in lines.items()} == {
        "mlp up": ([0, 1, 2], [1, 1, 1 / 8]),
        "embedding": ([-1], [1]),
        "head": ([3], [1]),
    }
    assert list(stable.lines[0].get_ydata())[-1] == pytest.approx(1)
    titled = {panel.get_title(loc="left"): panel for panel in panels if panel.get_title(loc="left")}
    assert list(titled) == ["mlp up", "embedding", "head"]
    curves = [np.asarray(line.get_ydata()) for line in titled["mlp up"].lines]
    assert len(curves) == 3
    assert all(curve[0] == 1 and (np.diff(curve) <= 0).all() for curve in curves)
    assert curves[2][-1] == pytest.approx(1e-6)  # of rank 1


def test_types_that_no_name_tells_have_no_legend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    legends, titles = [], []
    for model in (state(), {"0.weight": torch.eye(4), "2.weight": torch.eye(4)}):
        _, *given = drawn(model, monkeypatch, tmp_path / "x.png")
        with styled():
            figure = depth_figure(*given)  # type: ignore[arg-type]
        legends.append(sum(len(part.legends) for part in figure.subfigs))
        titles.append([title for panel in figure.axes[2:] if (title := panel.get_title(loc="left"))])
    assert legends == [1, 0]
    assert titles[1] == ["Spectra"]


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_figure_is_written_in_the_format_of_its_name(suffix: str, begins: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    analyze(state(), figure=path)
    assert path.read_bytes().startswith(begins)
    if suffix == ".png":
        pixels = imread(path)[..., :3]
        inked = (pixels.min(axis=-1) < 0.6).mean(axis=1)  # of each row of pixels, the share that is dark or coloured
        assert (inked > 0.01).mean() > 0.2  # lines, names and curves all over it
    if suffix == ".svg":
        first = path.read_bytes()
        analyze(state(), figure=path)
        assert path.read_bytes() == first


def test_a_network_without_blocks_or_spectra_or_ranks_is_drawn_too(tmp_path: Path) -> None:
    for i, (model, spectrum) in enumerate(
        [
            ({"fc.weight": torch.eye(3)}, False),
            ({"w": torch.full((2, 2), torch.nan)}, True),
            ({"w": torch.eye(1)}, True),
        ]
    ):
        analyze(model, spectrum=spectrum, figure=tmp_path / f"{i}.svg")
        assert (tmp_path / f"{i}.svg").stat().st_size > 5000


def test_what_keeps_a_figure_from_being_written_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis_table, "measure", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(AnalyzeError, match=r"x\.gif: a figure is a file of \.png, \.svg, \.pdf"):
        analyze(state(), figure=tmp_path / "x.gif")
    with pytest.raises(AnalyzeError, match="there is no folder"):
        analyze(state(), figure=tmp_path / "none" / "x.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("fastrank.plotting.figures")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=r"matplotlib is needed: pip install 'fastrank\[plot\]'"):
        analyze(state(), figure=tmp_path / "x.png")


def test_of_a_figure_a_full_disk_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    path.write_text("the old one")
    _, *given = drawn(state(), monkeypatch, path)
    for size in (0, 5000):
        with full_disk(size), pytest.raises(OSError, match="File too large") as error:
            save_depths(path, *given)  # type: ignore[arg-type]
        assert error.value.filename == str(path)
        assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]
