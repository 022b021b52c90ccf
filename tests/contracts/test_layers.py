"""Imports point down: a folder may import only from the layers below it, and heavy libraries stay where they belong."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "cytolith"

BELOW = {
    "axes": set(),
    "errors": set(),
    "quantities": {"axes", "errors"},
    "kernels": {"axes", "errors"},
    "io": {"axes", "errors", "quantities"},
    "engine": {"axes", "errors", "quantities", "io"},
    "testing": {"axes", "errors", "quantities", "kernels", "io"},
    "score": {"axes", "errors", "quantities", "kernels", "io"},
    "cells": {"axes", "errors", "quantities", "kernels", "io", "engine"},
    "fracture": {"axes", "errors", "quantities", "kernels", "io", "engine"},
    "atlas": {"axes", "errors", "quantities", "kernels", "io", "engine"},
    "convert": {"axes", "errors", "quantities", "kernels", "io", "engine"},
    "train": {"axes", "errors", "quantities", "kernels", "io", "engine", "cells", "score"},
    "tune": {"axes", "errors", "quantities", "kernels", "io", "engine", "cells", "score"},
    "preview": {"axes", "errors", "quantities", "kernels", "io", "engine", "cells", "tune"},
    "report": {"axes", "errors", "quantities", "kernels", "io", "engine", "cells", "fracture", "score"},
    "compat": {"axes", "errors", "quantities", "kernels", "io", "engine", "cells", "fracture"},
    "cli": {
        "axes",
        "errors",
        "quantities",
        "kernels",
        "io",
        "engine",
        "testing",
        "score",
        "cells",
        "fracture",
        "atlas",
        "convert",
        "train",
        "tune",
        "preview",
        "report",
        "compat",
        "__version__",
    },
    "__init__": {
        "axes",
        "errors",
        "quantities",
        "kernels",
        "io",
        "engine",
        "score",
        "cells",
        "fracture",
        "atlas",
        "convert",
        "train",
        "report",
    },
    "__main__": {"cli"},
}
"""What each layer may import, besides itself; the table is the picture of the house in docs/design.md."""

ONLY_IN = {
    "tifffile": {"io"},
    "zarr": {"io"},
    "h5py": {"io"},
    "pyarrow": {"io"},
    "PIL": {"io"},
    "numba": {"kernels"},
    "cupy": {"kernels", "engine"},
    "cyclopts": {"cli"},
    "rich": {"cli"},
    "numcodecs": {"io"},
    "google_crc32c": {"io"},
    "fsspec": {"io"},
    "optuna": {"tune"},
    "sklearn": {"cells", "train"},
    "skops": {"cells"},
    "jinja2": {"report", "preview"},
    "pydantic": {"cells"},
}
"""Libraries that one layer hides from the others."""


def layer_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "cytolith":
                yield from (f"cytolith.{alias.name}" for alias in node.names)
            else:
                yield node.module


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    layer = layer_of(path)
    assert layer in BELOW, f"{layer} is no layer of the house: give it a place in the table"
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "cytolith" and rest:
            assert rest[0] == layer or rest[0] in BELOW[layer], f"{path}: imports {name} from above or beside"
        if top in ONLY_IN:
            assert layer in ONLY_IN[top], f"{path}: {top} belongs in {ONLY_IN[top]}"


def test_modules_stay_small():
    long = {str(p.relative_to(PACKAGE)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 420}
    assert not long, f"split by noun: {long}"
