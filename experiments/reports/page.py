"""Pages of HTML that open without a network: their style, their figures and their words stand in the one file."""

from base64 import b64encode
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from string import Template

PNG = b"\x89PNG"


def page(template: str, **parts: str) -> str:
    """The file `template` of this package with `parts`, which are HTML, and the style of all pages filled in."""
    folder = files(__package__)
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    return Template(folder.joinpath(template).read_text(encoding="utf-8")).substitute(style=style, **parts)


def figure(title: str, caption: str, image: bytes | None) -> str:
    """A figure, PNG or SVG, with its title and caption, which are text; the caption alone where there is no image."""
    title, caption = escape(title), escape(caption)
    if image is None:
        return f"<figure><h3>{title}</h3><figcaption>{caption}</figcaption></figure>"
    kind = "png" if image.startswith(PNG) else "svg+xml"
    source = f"data:image/{kind};base64,{b64encode(image).decode()}"
    return f'<figure><h3>{title}</h3><img alt="{title}" src="{source}"><figcaption>{caption}</figcaption></figure>'


def tile(value: str, text: str) -> str:
    """A large number, which is HTML as its text is."""
    return f"<div class=tile><b>{value}</b><span>{text}</span></div>"


def problems(lines: Iterable[str]) -> str:
    """A list of what is wrong, in words; nothing where nothing is."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul class=problems>{items}</ul>" if items else ""
