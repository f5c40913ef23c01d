"""The metadata of the package agree with each other; .ci/package.py looks at builds."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sk_datadrop
from sk_datadrop._report import _EXTRAS

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
SOURCE = PROJECT["urls"]["Source"]
CITATION = (ROOT / "docs" / "CITATION.cff").read_text()
README = (ROOT / "README.md").read_text()


def names(requirements):
    return {Requirement(text).name for text in requirements}


def flat(extra):
    """Names of what an extra installs, through other extras of this package."""
    found = set()
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == PROJECT["name"]:
            found = found.union(*map(flat, requirement.extras))
        else:
            found.add(requirement.name)
    return found


def on_pypi(readme):
    """Return the README as the build changes it."""
    hook = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    assert hook["fragments"] == [{"path": "README.md"}]
    for substitution in hook["substitutions"]:
        readme = re.sub(substitution["pattern"], substitution["replacement"], readme)
    return readme


def test_there_is_one_version():
    assert "version" in PROJECT["dynamic"]
    path = ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"]
    namespace = {}
    exec(path.read_text(), namespace)
    assert sk_datadrop.__version__ == namespace["__version__"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", sk_datadrop.__version__)


def test_there_is_one_address():
    assert {"Source", "Documentation", "Changelog", "Issues"} <= set(PROJECT["urls"])
    assert all(url.startswith(SOURCE) for url in PROJECT["urls"].values())
    assert f"repository-code: {SOURCE}\n" in CITATION
    for name in ("Documentation", "Changelog"):
        path = PROJECT["urls"][name].removeprefix(f"{SOURCE}/blob/main/")
        assert (ROOT / path).is_file()


def test_every_python_that_is_allowed_is_listed():
    minor = int(PROJECT["requires-python"].removeprefix(">=3."))
    listed = re.findall(r"Python :: 3\.(\d+)", " ".join(PROJECT["classifiers"]))
    assert list(map(int, listed)) == list(range(minor, minor + len(listed)))
    tested = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    assert set(re.findall(r'"3\.(\d+)"', tested)) == {listed[0], listed[-1]}


def test_the_license_is_an_expression():
    # A classifier beside it is an error on PyPI (PEP 639).
    assert not any("License ::" in name for name in PROJECT["classifiers"])
    assert f"license: {PROJECT['license']}\n" in CITATION


def test_people_are_named():
    assert PROJECT["authors"] == PROJECT["maintainers"]
    assert f"- name: {PROJECT['authors'][0]['name']}\n" in CITATION


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("plot", {"matplotlib"}),
        ("report", {"pandas", "jinja2"}),
        ("save", {"skops", "safetensors"}),
        ("vision", {"torchvision"}),
    ],
)
def test_extras_are_small_and_others_are_made_of_them(extra, expected):
    assert flat(extra) == expected
    assert flat("test") | flat("dev") >= expected
    assert not names(PROJECT["dependencies"]) & expected


def test_demo_is_what_the_examples_need():
    assert flat("demo") == flat("plot") | flat("report") | {"mlxtend", "scikit-image"}


def test_extras_of_error_messages_exist():
    for package, extra in _EXTRAS.items():
        assert package in flat(extra)


def test_links_of_the_readme_lead_somewhere_on_pypi():
    text = on_pypi(README)
    relative = re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", README)
    assert relative
    for target in relative:
        path = target.partition("#")[0]
        raw = SOURCE.replace("github.com", "raw.githubusercontent.com") + "/main/"
        is_image = path.endswith(".png")
        whole = f"]({raw}{target})" if is_image else f"]({SOURCE}/blob/main/{target})"
        assert whole in text
        assert (ROOT / path).exists()
    assert not re.findall(r"\]\((?!https?:|#)", text)
    # Links that are whole already stay as they are.
    assert "(https://skorch.readthedocs.io)" in text


def test_pictures_within_links_are_found_too():
    text = on_pypi("[![a](docs/a.png)](docs/a.md) [b](#b) [c](https://c.org)")
    raw = SOURCE.replace("github.com", "raw.githubusercontent.com")
    assert text == (
        f"[![a]({raw}/main/docs/a.png)]({SOURCE}/blob/main/docs/a.md) "
        "[b](#b) [c](https://c.org)"
    )


def test_the_citation_names_the_papers():
    for identifier in (
        "arXiv:1809.00193",
        "10.1109/ICTAI.2018.00017",
        "arXiv:1703.04730",
    ):
        assert identifier in CITATION
