"""The examples run whole, on less data and for fewer epochs."""

import importlib.util
import runpy
import sys
from functools import partialmethod
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from skorch import NeuralNet

mpl.use("Agg")

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quickstart(monkeypatch):
    module = load("quickstart")
    make_net, load_digits = module.make_net, module.load_digits

    def fewer_digits(flip, kind, seed):
        X, y, flipped, X_test, y_test = load_digits(flip, kind, seed)
        return X[:600], y[:600], flipped[:600], X_test[:200], y_test[:200]

    monkeypatch.setattr(
        module, "make_net", lambda *a: make_net(*a).set_params(max_epochs=3)
    )
    monkeypatch.setattr(module, "load_digits", fewer_digits)
    return module


def test_quickstart(quickstart, monkeypatch, tmp_path, capsys):
    figure = tmp_path / "figure.png"
    arguments = ["--seeds", "2", "--batch-norm", "--kind", "pair"]
    monkeypatch.setattr(
        sys, "argv", ["quickstart", *arguments, "--output", str(figure)]
    )
    quickstart.main()
    shown = capsys.readouterr().out
    for arm in quickstart.ARMS:
        assert arm in shown
    assert figure.stat().st_size > 10_000


def test_quickstart_random_drop_keeps_the_class_mix():
    quickstart = load("quickstart")
    y = np.repeat([0, 1, 2], [50, 30, 20])
    mask = np.random.default_rng(0).random(100) > 0.3
    shuffled = quickstart.random_mask(mask, y, seed=0)
    np.testing.assert_array_equal(np.bincount(y[mask]), np.bincount(y[shuffled]))
    assert not np.array_equal(mask, shuffled)


def test_quickstart_digits_are_flipped_in_the_training_rows_only():
    X, y, flipped, X_test, y_test = load("quickstart").load_digits(0.2, "symmetric", 0)
    assert (len(X), len(X_test), flipped.sum()) == (4000, 1000, 800)
    _, clean, _, _, y_test_again = load("quickstart").load_digits(0.0, "symmetric", 0)
    np.testing.assert_array_equal(y != clean, flipped)
    np.testing.assert_array_equal(y_test, y_test_again)


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*/plot_*.py")), ids=lambda path: path.stem
)
def test_gallery(path, monkeypatch, capsys):
    """Every example runs whole, for two epochs; the docs are built with more."""
    monkeypatch.setenv("SK_DATADROP_QUICK", "1")
    monkeypatch.setattr(
        NeuralNet, "fit_loop", partialmethod(NeuralNet.fit_loop, epochs=2)
    )
    plt.close("all")
    namespace = runpy.run_path(str(path), run_name="__main__")
    figures = plt.get_fignums()
    plt.close("all")
    assert figures
    assert capsys.readouterr().out
    title, line, first, *_ = namespace["__doc__"].strip().splitlines()
    assert len(line) == len(title)
    assert not first
