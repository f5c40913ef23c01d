"""The documentation is complete, and its examples run."""

import inspect
import re
import runpy
from pathlib import Path

import pytest
from numpydoc.validate import validate

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


def methods(name, cls):
    """Public methods and properties that this package defines, inherited or not."""
    for method in dir(cls):
        member = inspect.getattr_static(cls, method)
        member = getattr(member, "fget", getattr(member, "__func__", member))
        if not inspect.isfunction(member) or method.startswith("_"):
            continue
        if member.__module__.startswith("sk_datadrop"):
            yield f"{name}.{method}"


def with_docstrings():
    for module in MODULES:
        for name in module.__all__:
            member, full = getattr(module, name), f"{module.__name__}.{name}"
            if inspect.isclass(member):
                yield from methods(full, member)
            # The scorers are instances, which have no docstring of their own.
            if hasattr(member, "__name__"):
                yield full


@pytest.mark.parametrize("name", sorted(with_docstrings()))
def test_docstrings_are_complete(name):
    assert validate(name)["errors"] == []


def test_docstrings_are_looked_at():
    assert {
        "sk_datadrop.DataDropoutClassifier.predict_proba",
        "sk_datadrop.DataDropoutSampler.get_support",
        "sk_datadrop.DropCurve.gain",
        "sk_datadrop.metrics",
        "sk_datadrop.nets.DnCNN.forward",
    } <= set(with_docstrings())


def test_a_warning_or_a_path_among_the_outputs_of_an_example_is_found():
    for package in ("latex2mathml", "sphinx_gallery"):
        pytest.importorskip(package)
    unwanted = runpy.run_path(str(DOCS / "conf.py"))["unwanted"]
    page = (
        "<p>A UserWarning in the text.</p>"
        '<div class="sphx-glr-script-out highlight-none"><div class="highlight">'
        "<pre><span></span>{}\n</pre></div></div>"
        "<pre>DeprecationWarning: code</pre>"
    )
    home = str(DOCS.parent)
    assert unwanted(page.format("dropped 12 samples, warned of nothing")) == []
    assert unwanted(page.format("<span>Future</span>Warning: no")) == ["FutureWarning"]
    assert unwanted(page.format(f"wrote {home}/a.csv")) == [home]


@pytest.mark.parametrize("page", ["getting_started", "user_guide", "inside", "scaling"])
def test_code_of_the_page_runs(page):
    blocks = re.findall(
        r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL
    )
    assert blocks
    namespace = {}
    for code in blocks:
        exec(code, namespace)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (
            "plot_image_folder",
            "folder of images, ImageFolder, mislabelled, relabel, wrong labels, CSV",
        ),
        (
            "plot_csv",
            "CSV, pandas, DataFrame, label errors, relabel, MLflow, TensorBoard",
        ),
        ("plot_image_pairs", "pairs of image files, misaligned, swapped, CSV"),
        ("plot_pretrained", "pretrained, fine-tune, torchvision, mislabelled, relabel"),
    ],
)
def test_pages_on_own_data_have_the_words_that_users_search(page, words):
    source = (DOCS.parent / "examples" / "own_data" / f"{page}.py").read_text()
    text = " ".join(re.sub(r"^# ", "", source, flags=re.MULTILINE).split())
    missing = [word for word in [*words.split(", "), "notebook"] if word not in text]
    assert missing == []
