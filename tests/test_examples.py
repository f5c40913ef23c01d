"""The examples run whole, on less data and for fewer epochs."""

import importlib.util
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    mpl.use("Agg")
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


def test_denoising(monkeypatch, tmp_path, capsys):
    module = load("plot_denoising")
    make_net, cut = module.make_net, module.cut_patches
    monkeypatch.setattr(module, "make_net", lambda: make_net().set_params(max_epochs=2))
    monkeypatch.setattr(module, "cut_patches", lambda p, n, rng: cut(p, n // 10, rng))
    figure = tmp_path / "figure.png"
    monkeypatch.setattr(sys, "argv", ["plot_denoising", "--output", str(figure)])
    module.main()
    assert "data dropout" in capsys.readouterr().out
    assert figure.stat().st_size > 10_000


def test_grid_search(monkeypatch, tmp_path, capsys):
    module = load("plot_grid_search")
    monkeypatch.setattr(module, "FRACTIONS", [0.0, 0.2])
    monkeypatch.setattr(module, "N_FOLDS", 2)
    figure = tmp_path / "figure.png"
    arguments = ["--rows", "300", "--epochs", "2", "--output", str(figure)]
    monkeypatch.setattr(sys, "argv", ["plot_grid_search", *arguments])
    # The callback is pickled into the cache by the name of its module.
    monkeypatch.setitem(sys.modules, "plot_grid_search", module)
    module.main()
    shown = capsys.readouterr().out
    assert "without memory   15 trainings of round 1,   5 of round 2" in shown
    assert "with memory       9 trainings of round 1,   5 of round 2" in shown
    assert "the scores are the same" in shown
    assert figure.stat().st_size > 10_000


def test_drop_curve(monkeypatch, tmp_path, capsys):
    module = load("plot_drop_curve")
    monkeypatch.setattr(module, "FRACTIONS", ["negative", 0.2])
    figure = tmp_path / "figure.png"
    arguments = ["--rows", "200", "--epochs", "2", "--repeats", "2"]
    monkeypatch.setattr(
        sys, "argv", ["plot_drop_curve", *arguments, "--output", str(figure)]
    )
    module.main()
    shown = capsys.readouterr().out
    assert "accuracy without dropout" in shown
    assert shown.count("[") == 4
    assert figure.stat().st_size > 10_000
