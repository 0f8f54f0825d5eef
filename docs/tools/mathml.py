"""Formulas of the site: a fenced block of `math`, in LaTeX as GitHub shows it too, is MathML once the site is built.

Browsers draw MathML themselves, so that a page needs no script for it.
"""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert


def fence(source: str, language: str, class_name: str, options: Any, md: Any, **rest: Any) -> str:
    """What `pymdownx.superfences` puts in the place of a block."""
    return f'<div class="{class_name}">{convert(source.strip(), display="block")}</div>'
