"""The documentation is complete, and its examples run."""

import re
from pathlib import Path

import pytest

import sk_datadrop
from sk_datadrop import datasets, metrics, nets

DOCS = Path(__file__).parents[1] / "docs"
MODULES = [sk_datadrop, metrics, nets, datasets]


def documented():
    """Names listed on the API page, with their module."""
    names, module = set(), "sk_datadrop"
    for line in (DOCS / "api.rst").read_text().splitlines():
        if line.startswith((".. currentmodule::", ".. automodule::")):
            module = line.split()[-1]
        if line.startswith(".. automodule::"):
            names.add(module)
        elif line.startswith(".. data::") or re.fullmatch(r"   \w+", line):
            names.add(f"{module}.{line.split()[-1]}")
    return names


def public():
    return {f"{m.__name__}.{name}" for m in MODULES for name in m.__all__}


def test_the_api_page_lists_what_is_public():
    assert documented() == public()


@pytest.mark.parametrize("page", ["getting_started", "user_guide"])
def test_code_of_the_page_runs(page):
    blocks = re.findall(
        r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL
    )
    assert blocks
    namespace = {}
    for code in blocks:
        exec(code, namespace)
