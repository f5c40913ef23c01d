"""The README's examples run and do what it says, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def anchors(page):
    """Return the anchors of the headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_example_runs_without_a_warning(tmp_path):
    blocks = python_blocks(README)
    assert all(len(code.splitlines()) <= 20 for code in blocks)
    script = tmp_path / "example.py"
    script.write_text("\n".join(blocks))
    process = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    rows = [line.split() for line in process.stdout.splitlines()]
    shown = next(row for row in rows if row[0] == "dropped")
    dropped, wrong = int(shown[1]), int(shown[3])
    assert wrong > 0.8 * dropped > 0


def test_it_is_short():
    assert len(README.splitlines()) < 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    # The gallery exists on the site only, whose build checks these links.
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target or path.startswith("gallery/"):
            continue
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target
