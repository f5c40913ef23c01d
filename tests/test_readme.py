"""The README's example runs and does what it says."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 20
    namespace = {}
    exec(code, namespace)
    shown = capsys.readouterr().out.split()
    dropped, wrong = int(shown[1]), int(shown[3])
    assert wrong > 0.8 * dropped > 0


def test_the_pictures_exist():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (Path(__file__).parents[1] / path).is_file()
