"""The one way for the data to flow: a module imports only what stands before it."""

import ast
from pathlib import Path

import pytest

import sk_datadrop

PACKAGE = Path(sk_datadrop.__file__).parent
ORDER = [
    "metrics",
    "nets",
    "datasets",
    "_checks",
    "_splits",
    "_rows",
    "_memory",
    "_workers",
    "_ranks",
    "_derivatives",
    "_rounds",
    "_functional",
    "_objectives",
    "_curvature",
    "_solvers",
    "_influence",
    "_optimizers",
    "_trajectory",
    "_views",
    "_drop",
    "_scores",
    "_round_one",
    "_trials",
    "_validation",
    "_row_selection",
    "_two_rounds",
    "_estimators",
    "_selectors",
    "_cost",
    "_curves",
    "_report",
    "_displays",
    "__init__",
]
WITHOUT_TORCH = {"metrics", "datasets", "_checks", "_splits", "_drop"}


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "sk_datadrop":
            yield from (f"sk_datadrop.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=part_of)
def test_imports_point_backwards(path):
    part = part_of(path)
    for module in imported_modules(path):
        names = module.split(".")
        if names[0] == "sk_datadrop":
            assert ORDER.index(names[1]) <= ORDER.index(part), (
                f"{part} imports {module}"
            )
        if part in WITHOUT_TORCH:
            assert names[0] not in ("torch", "skorch"), f"{part} imports {module}"
        assert part == "_displays" or names[0] != "matplotlib"


def test_public_names_exist_and_are_documented():
    for name in sk_datadrop.__all__:
        assert getattr(sk_datadrop, name).__doc__
