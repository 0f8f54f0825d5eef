"""Formulas of the site: a fenced block of `math`, in LaTeX as GitHub shows it too, is MathML once the site is built.

Browsers draw MathML themselves, so that a page needs no script for it.
"""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert


def fence(source: str, language: str, class_name: str, options: Any, md: Any, **rest: Any) -> str:
    """What `pymdownx.superfences` puts in the place of a block: a line of the formula for each of the block."""
    lines = [line for line in source.splitlines() if line.strip()]
    return f'<div class="{class_name}">{"".join(convert(line, display="block") for line in lines)}</div>'
