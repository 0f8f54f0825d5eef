"""Puts a project for the kernels hub together from kernels/, and the build that `kernel-builder` makes of it.

    python hub/assemble.py --out build/hub [--backend cpu]

`README.md` says what for. A file that imports what the hub's kernels may not is an error: the folder is then not made.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import json
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KERNELS = HERE.parent / "kernels"
LEFT_OUT = ("cpu", "__pycache__")
"""`cpu` needs Numba, which is none of the packages that a kernel of the hub may depend on."""
NEEDED = {"torch", "triton"}
OPTIONAL = {"cupy"}
"""Imported inside functions only, and done without where it is missing."""
ROOMS = ("count", "inertia", "lowrank", "sketch", "step")
PACKAGE = f'''"""Kernels of fastrank, in rooms: what each is for is said in its own documentation."""

from . import {", ".join(ROOMS)}

__all__ = {json.dumps(ROOMS)}
'''


class HubError(Exception):
    """What kernels/ has in it that the hub does not take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder, which is made anew")
    parser.add_argument("--backend", help="build for this one instead of those of build.toml")
    given = parser.parse_args()
    try:
        assemble(given.out, given.backend)
    except HubError as error:
        sys.exit(f"hub: {error}")
    print(given.out)


def assemble(out: Path, backend: str | None = None, kernels: Path = KERNELS) -> Path:
    """Make the project in `out`, anew, and return the folder of its Python package.

    Raises:
        HubError: a file imports what it may not.
    """
    with (HERE / "build.toml").open("rb") as file:
        config = tomllib.load(file)
    name, endings = config["general"]["name"].replace("-", "_"), config["torch-noarch"]["pyext"]
    chosen = [
        path
        for path in sorted(kernels.rglob("*"))
        if path.suffix[1:] in endings and not set(LEFT_OUT) & set(path.relative_to(kernels).parts)
    ]
    for path in chosen:
        if path.suffix == ".py":
            refuse_imports(path, kernels)
    shutil.rmtree(out, ignore_errors=True)
    package = out / "torch-ext" / name
    for path in chosen:
        copy = package / path.relative_to(kernels)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (package / "__init__.py").write_text(PACKAGE)
    for own in ("build.toml", "CARD.md", "flake.nix"):
        shutil.copyfile(HERE / own, out / own)
    shutil.copyfile(HERE.parent / "LICENSE", out / "LICENSE")
    for one in [backend] if backend else config["general"]["backends"]:
        _build(package, out / "build" / f"torch-{one}", config, one)
    return package


def refuse_imports(path: Path, kernels: Path) -> None:
    """Raise a HubError if a file of the package in `kernels` imports what a kernel of the hub cannot."""
    depth = len(path.relative_to(kernels).parts)
    for used, top, level, at_import in _imports(ast.parse(path.read_text())):
        inside = level <= depth and top not in LEFT_OUT if level else False
        allowed = sys.stdlib_module_names | NEEDED | (set() if at_import else OPTIONAL)
        if not inside and (level or top not in allowed):
            raise HubError(
                f"{path.relative_to(kernels)} imports {'.' * level}{used}, which no kernel of the hub can have"
            )


def _imports(tree: ast.AST, at_import: bool = True) -> Iterator[tuple[str, str, int, bool]]:
    """Names that are imported: the whole, its first part, how many dots it has, and whether importing the file does."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name.partition(".")[0], 0, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.module.partition(".")[0], node.level, at_import
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.name, alias.name, node.level, at_import) for alias in node.names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        inside |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from _imports(node, at_import and not inside)


def _build(package: Path, variant: Path, config: dict[str, Any], backend: str) -> None:
    """The variant of a build: the files of the package, and what `kernels` reads about them."""
    shutil.copytree(package, variant)
    # Older versions of `kernels` look for the package in a folder of its name.
    (variant / package.name).mkdir()
    (variant / package.name / "__init__.py").write_text(COMPATIBLE)
    files = {path.relative_to(variant).as_posix(): path for path in sorted(variant.rglob("*")) if path.is_file()}
    hashes = {name: hashlib.sha256(path.read_bytes()).digest() for name, path in files.items()}
    unique = hashlib.sha256(b"".join(hashes.values())).hexdigest()[:7]
    general = config["general"]
    about: dict[str, Any] = {"type": backend}
    if backend == "cuda":
        about["archs"] = config["torch-noarch"]["cuda_capabilities"]
    metadata = {
        "name": general["name"],
        "id": f"_{package.name}_{backend}_{unique}",
        "version": general["version"],
        "license": general["license"],
        "python-depends": [],
        "backend": about,
        "digest": {
            "algorithm": "sha256",
            "files": {name: base64.b64encode(value).decode() for name, value in hashes.items()},
        },
    }
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


COMPATIBLE = """import importlib.util
import sys
from pathlib import Path

_name = f"{__name__}_above"
_spec = importlib.util.spec_from_file_location(_name, Path(__file__).parent.parent / "__init__.py")
_above = importlib.util.module_from_spec(_spec)
sys.modules[_name] = _above
_spec.loader.exec_module(_above)
globals().update({name: getattr(_above, name) for name in _above.__all__})
"""

if __name__ == "__main__":
    main()
