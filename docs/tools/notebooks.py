"""A notebook as a page of Markdown: its text, its code, and its outputs as they are committed."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any


def text(path: Path, pictures: dict[str, bytes] | None = None) -> str:
    """The page. Pictures of the outputs are put into `pictures`, by the names that the page has for them."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            parts.append(shown(output, path, {} if pictures is None else pictures))
    return "\n\n".join(parts) + "\n"


def shown(output: dict[str, Any], path: Path, pictures: dict[str, bytes]) -> str:
    """One output: a picture before a table, a table before plain text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        name = f"{path.stem}-{len(pictures)}.png"
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        return f"![output]({name})"
    if "text/html" in data:
        table = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        return '<div class="output">' + re.sub(r"\n\s*", " ", table) + "</div>"
    return f"```text\n{''.join(data.get('text/plain', '')).rstrip()}\n```"
