"""Pydantic's validation errors in one plain line each, naming the key by its dotted path."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem; for an unknown key, the nearest of the keys that ``model`` knows."""
    known = sorted(set(_keys(model)))
    return [f"{_place(dict(item))}: {_reason(dict(item), known)}" for item in error.errors()]


def _place(item: dict[str, Any]) -> str:
    return _dotted((*item["loc"], "name") if item["type"].startswith("union_tag") else item["loc"])


def _dotted(path: tuple[int | str, ...]) -> str:
    named = [step for i, step in enumerate(path) if not (i and path[i - 1] == "model" and i + 1 < len(path))]
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in named)
    return text.removeprefix(".")


def _reason(item: dict[str, Any], known: list[str]) -> str:
    match item["type"]:
        case "extra_forbidden":
            near = get_close_matches(str(item["loc"][-1]), known, n=1)
            return "unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
        case "missing":
            return "is missing"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "model_type" | "model_attributes_type":
            return f"must be a table (got {item['input']!r})"
        case "union_tag_invalid":
            return f"unknown name {item['ctx']['tag']!r}; known: {item['ctx']['expected_tags'].replace(chr(39), '')}"
        case "union_tag_not_found":
            return "is missing"
        case "value_error":
            return str(item["ctx"]["error"])
        case _:
            message = item["msg"].replace("Input should", "must", 1).replace("a valid ", "a ", 1)
            return f"{message.replace('a integer', 'an integer')} (got {item['input']!r})"


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        for nested in (field.annotation, *get_args(field.annotation)):
            if isinstance(nested, type) and issubclass(nested, BaseModel):
                yield from _keys(nested)
